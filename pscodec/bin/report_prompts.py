"""The report's section on prompts (stage 7): one codec, one test set, other prompts."""

from html import escape

from pscodec.data.prompts import CONDITIONS, NORMAL, REPORTED, describe, seconds_of
from pscodec.metrics.scorer import METRICS
from pscodec.metrics.summary import CODEC, format_mean, mean_ci
from pscodec.utils import html, plot

FIGURE = ("pesq", "stoi", "mcd", "secs")


def only_here(condition):
    """Whether a condition stands in this section alone; a wrong speaker's prompt is among the controls too."""
    return describe(condition) is not None and condition != "wrong_prompt"


def prompts(experiments, out, titles):
    """The section, "" where no split was decoded with other prompts. `titles`: column -> its heading (HTML)."""
    parts = []
    for split in dict.fromkeys(split for e in experiments for split in e["summary"]):
        here = [e for e in experiments if any(map(only_here, e["summary"].get(split, {})))]
        if here:
            parts += [f"<h3>{escape(split)}</h3>", _figure(split, here, out), _table(split, here, titles)]
    if not parts:
        return ""
    return (
        "<h2>Prompts</h2>\n<p class='soft'>The same codes, another prompt. In the small print the difference to the "
        f"normal one ({NORMAL}): its mean over the same utterances and the half width of its 95 % interval. Noise has "
        "the length and the level of the normal prompt; N seconds are its middle; without a prompt nothing is sent and "
        "zeros are added.</p>\n" + "\n".join(parts)
    )


def by_condition(experiment, split):
    """`{condition: {utt: row}}` of one split's scores: the codec as it is and the prompt conditions, in order."""
    found = {}
    for row in experiment["scores"]:
        if row["split"] == split and (row["condition"] == CODEC or describe(row["condition"])):
            found.setdefault(row["condition"], {})[row["utt"]] = row
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _order(condition):
    """Own, normal, longest to shortest, and then the others as they are reported."""
    if condition == CODEC:
        return (1, 0)
    if seconds := seconds_of(condition):
        return (2, -seconds)
    return (0 if condition == "own_prompt" else 3, REPORTED.index(condition) if condition in CONDITIONS else 0)


def name_of(condition):
    return NORMAL if condition == CODEC else describe(condition)


def change(rows, normal, column):
    """`mean_ci` of a score minus the normal prompt's, over the utterances that have both."""
    both = [utt for utt in rows if column in rows[utt] and column in normal.get(utt, {})]
    return mean_ci([rows[utt][column] - normal[utt][column] for utt in both])


def _table(split, experiments, titles):
    found = {e["name"]: by_condition(e, split) for e in experiments}
    rows = [row for conditions in found.values() for utts in conditions.values() for row in utts.values()]
    columns = [c for c in titles if c in METRICS and any(c in row for row in rows)]
    # what was not scored for the other prompts says nothing here
    columns = [c for c in columns if any(c in row and row["condition"] != CODEC for row in rows)]
    lines = []
    for name, conditions in found.items():
        if len(experiments) > 1:
            lines.append(("head", [escape(name)]))
        for condition, utts in conditions.items():
            cells = [escape(name_of(condition)), str(len(utts))]
            for column in columns:
                values = [row[column] for row in utts.values() if column in row]
                cells.append(format_mean(mean_ci(values), len(utts)))
                if condition != CODEC:
                    cells[-1] += _small(change(utts, conditions.get(CODEC, {}), column))
            lines.append(("main" if condition == CODEC else "", cells))
    return html.table(["prompt", "n", *(titles[c] for c in columns)], lines)


def _small(entry):
    text = format_mean(entry)
    if text == "-":
        return ""
    return f"<small>{'−' + text[1:] if text.startswith('-') else '+' + text}</small>"


def _figure(split, experiments, out):
    panels = {}
    for column in FIGURE:
        for e in experiments:
            for condition, utts in by_condition(e, split).items():
                values = mean_ci([row[column] for row in utts.values() if column in row])
                if values["n"]:
                    line = panels.setdefault(column, {}).setdefault(name_of(condition), {})
                    line[e["name"]] = (values["mean"], values["ci95"])
    if not panels:
        return ""
    stem = f"figures/prompts.{split}"
    for theme in plot.THEMES:
        plot.intervals(out / f"{stem}.{theme}.png", panels, theme)
    return html.picture(f"{stem}.light.png", f"{stem}.dark.png", f"scores of {split} with other prompts")
