"""The report's table of speech from text (stage 7), laid out as TiCodec's Table 3: by the number of codebooks."""

import json
import math
from html import escape
from pathlib import Path

from pscodec.metrics.summary import CODEC, format_mean
from pscodec.utils import html
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import plain

COLUMNS = {  # of the paper's table and ours; SIM is by Resemblyzer
    "wer": "WER ↓",
    "cer": "CER ↓",
    "secs_ge2e": "SIM ↑<br>GE2E",
    "secs": "SIM ↑<br>CAM++",
    "mos": "MOS ↑",
    "smos": "SMOS ↑",
}
RATED = ("mos", "smos")
BESIDE = {"recording": "the recordings", "coded": "the recordings, coded", "wrong_prompt": "a wrong speaker's prompt"}
NOTE = (
    "WER and CER: errors in what Whisper hears. SIM: the voice beside the prompt's, another utterance of the speaker, "
    "and the right one's where the prompt was a wrong speaker's: similarity means something by as much as that row is "
    "lower. MOS and SMOS: from listening tests (pscodec listening-test and listening-results); a dash: nobody was "
    "asked. In italics the paper's rows, of LibriTTS: another recogniser, other training, other recordings than ours."
)


def facts(folder):
    """Of the codes that the experiment in `folder` writes: `codec`, `n_q`, `bitrate`. Raises UserError."""
    path = folder / "ar/hyperparams.yaml"
    if not path.is_file():
        raise UserError(f"{path}: no such file; run stage 3")
    keys = plain(path.read_text(encoding="utf-8"))
    bitrate = keys["n_q"] * math.log2(keys["codebook_size"]) * keys["frame_rate"]
    return {"codec": Path(str(keys["codec"])).name, "n_q": keys["n_q"], "bitrate": bitrate}


def read_listening(given):
    """`{(split or None, column): {system: {mean, ci95, n}}}` of files that `pscodec listening-results --json` wrote, as
    `[SPLIT=]FILE`. Of two intervals, over ratings and over listeners, the wider one. Raises UserError."""
    found = {}
    for word in given:
        split, _, path = word.rpartition("=")
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
            kind, systems = table["kind"], table["systems"]
            rated = {name: {**e, "ci95": _wider(e["ci95"], e["ci95_listeners"])} for name, e in systems.items()}
        except OSError as error:
            raise UserError(f"{path}: {error.strerror} (--listening)") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(f"{path}: not what pscodec listening-results --json wrote") from None
        if kind not in RATED:
            raise UserError(f"{path}: a {kind.upper()} test; the table has columns for MOS and SMOS")
        if (split or None, kind) in found:
            raise UserError(f"{path}: a second {kind.upper()} test of the same split")
        found[split or None, kind] = rated
    return found


def _wider(*intervals):
    return max((ci for ci in intervals if ci is not None), default=None)


def tables(experiments, paper, listening):
    """`[(split, groups)]`; `groups`: `[(heading, rows)]`, a row `(kind, name, bit/s, n, {column: text})`, in which
    kind is main, "" or paper. What listeners were asked of and no row has is told."""
    asked = {(key, name) for key, rated in listening.items() for name in rated}
    found = []
    for split in dict.fromkeys(split for e in experiments for split in e["summary"]):
        here = [e for e in experiments if split in e["summary"]]
        theirs = [row for row in paper if row["testset"] == split] or paper
        groups = []
        for n_q in sorted({e["codes"]["n_q"] for e in here} | {int(row["n_q"]) for row in theirs}):
            rows = [_papers(row) for row in theirs if int(row["n_q"]) == n_q]
            ours = [e for e in here if e["codes"]["n_q"] == n_q] if n_q else here[:1]
            for e in ours:
                for condition in (CODEC, "wrong_prompt", "coded") if n_q else ("recording",):
                    if condition in e["summary"][split]:
                        rows.append(_ours(e, split, condition, listening, asked))
            if rows:
                groups.append((f"{n_q} codebook{'s' * (n_q > 1)}" if n_q else BESIDE["recording"], rows))
        found.append((split, groups))
    for (split, column), name in sorted(asked, key=str):
        if (column, name) != ("smos", "reference"):  # the prompts themselves
            print(f"warning: --listening: no row for {name} ({column.upper()}{f', {split}' if split else ''})")
    return found


def _ours(e, split, condition, listening, asked):
    entry, name = e["summary"][split][condition], e["name"]
    cells = {column: format_mean(entry.get(column)) for column in COLUMNS if column not in RATED}
    for column in RATED:
        names = [f"{name}.{condition}", *([name] if condition == CODEC else [])]
        if condition == "recording":  # the same for all; of SMOS the hidden reference is the prompt
            names += ["recording", *(["reference"] if column == "mos" else [])]
        places = [(key, known) for key in ((split, column), (None, column)) for known in names]
        place = next((p for p in places if p[1] in listening.get(p[0], {})), None)
        cells[column] = format_mean(listening[place[0]][place[1]]) if place else "-"
        asked.discard(place)
    system = f"VALL-E on {e['codes']['codec']}" if condition == CODEC else BESIDE[condition]
    label = system if condition == "recording" else f"{system} ({name})"
    bitrate = "-" if condition == "recording" else f"{e['codes']['bitrate']:,.0f}"
    return "main" if condition == CODEC else "", label, bitrate, str(entry["utterances"]), cells


def _papers(row):
    cells = {column: row.get(column) or "-" for column in COLUMNS}
    return "paper", row["system"], row["bitrate"], "-", cells


def section(found):
    """What `tables` found, as HTML."""
    parts = ["<h2>By codec and number of codebooks</h2>", f"<p class='soft'>{NOTE}</p>"]
    for split, groups in found:
        rows = [("head", [escape(split)])] if len(found) > 1 else []
        for heading, group in groups:
            rows.append(("head", [heading]))
            rows += [
                (kind, [escape(name), bitrate, n, *map(_cell, cells.values())])
                for kind, name, bitrate, n, cells in group
            ]
        parts.append(html.table(["", "bit/s", "n", *COLUMNS.values()], rows))
    return "\n".join(parts)


def _cell(text):
    mean, _, half = text.partition(" ± ")
    return f"{mean}<small>± {half}</small>" if half else mean


def markdown(found):
    """What `tables` found, as Markdown."""
    titles = [title.replace("<br>", " ") for title in COLUMNS.values()]
    lines = ["| split | codebooks | system | bit/s | n | " + " | ".join(titles) + " |"]
    lines.append("|---|---|---|--:|--:|" + "--:|" * len(titles))
    for split, groups in found:
        for heading, group in groups:
            for kind, name, bitrate, n, cells in group:
                where = "LibriTTS (the paper)" if kind == "paper" else split
                lines.append("| " + " | ".join([where, heading, name, bitrate, n, *cells.values()]) + " |")
    return "\n".join(lines)
