"""The paper's Tables I-V and ours as text: reads paper/*.tsv and the scores that tables.py has collected.

A score stands under the name of the test set it was measured on. Test sets and systems that were not measured are `-`.
"""

from dataclasses import dataclass

from pscodec.bin.report import read_paper
from pscodec.metrics.summary import CODEC, format_mean, mean_ci, read_scores
from pscodec.utils.files import write_text

TABLES = {"I": "table1.tsv", "II": "table2.tsv", "III": "table3.tsv", "IV": "table4.tsv", "V": "table5.tsv"}
TITLES = {
    "I": "in domain: LibriTTS test-clean and test-other",
    "II": "out of domain: LJSpeech",
    "III": "ablation of PSCodec-CasAN",
    "IV": "ablation of PSCodec-DRL-ICT",
    "V": "ablation of PSCodec-Base",
}
METRICS = {  # the paper's, and two more of ours
    "pesq": "PESQ ↑",
    "stoi": "STOI ↑",
    "visqol": "ViSQOL ↑",
    "utmos": "UTMOS ↑",
    "si_snr": "SI-SNR ↑",
    "mcd_linear": "MCD, linear Mel ↓",
    "secs": "SECS ↑",
    "dnsmos_ovrl": "DNSMOS OVRL ↑",
    "mcd": "MCD, cepstral ↓",
}
SETS = {  # our splits of the corpora that the paper tests on -> its names
    "libritts": {"test_clean": "test_clean", "test_other": "test_other"},
    "ljspeech": {"test_ljspeech": "ljspeech"},
}
NAMES = {"test_clean": "LibriTTS test-clean", "test_other": "LibriTTS test-other", "ljspeech": "LJSpeech"}
AGAINST = {"I": "PSCodec-Base", "II": "PSCodec-Base"}  # what the others are compared with; else the table's first


@dataclass(frozen=True)
class Row:
    """A line of paper/systems.tsv."""

    id: str
    systems: tuple[str, ...]
    config: str
    parent: str | None
    steps: int
    train_args: str
    beside: str | None


def load_systems(path):
    """The rows of paper/systems.tsv; `-` is none."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    rows = []
    for line in lines[1:]:
        id_, systems, config, parent, steps, train_args, beside = (c if c != "-" else "" for c in line.split("\t"))
        names = tuple(name.strip() for name in systems.split(";"))
        rows.append(Row(id_, names, config, parent or None, int(steps), train_args, beside or None))
    return rows


def load_paper(folder):
    return {table: read_paper(folder / name) for table, name in TABLES.items()}


def collect(folder, systems, n_q):
    """`{(row id, n_q): {test set: {utt: scores}}}` of the files ROW_Nq.CORPUS.tsv in `folder`."""
    found = {}
    for row in systems:
        for k in n_q:
            for path in sorted(folder.glob(f"{row.id}_{k}q.*.tsv")):
                corpus = path.name.removeprefix(f"{row.id}_{k}q.").removesuffix(".tsv")
                for score in read_scores(path):
                    if score["condition"] == CODEC:
                        testset = SETS.get(corpus, {}).get(score["split"], f"{corpus} {score['split']}")
                        found.setdefault((row.id, k), {}).setdefault(testset, {})[score["utt"]] = score
    return found


def own_sets(table, corpus):
    """Test sets of a corpus that the paper does not have: a voice never heard is out of domain."""
    if corpus in SETS:
        return []
    return [f"{corpus} test_unseen" if table == "II" else f"{corpus} test"]


def system_order(paper_rows, systems):
    """`[(system, row or None)]` as a table lists them, with those that stand beside one of them."""
    by_name = {name: row for row in systems if not row.beside for name in row.systems}
    order = []
    for name in dict.fromkeys(row["system"] for row in paper_rows):
        order.append((name, by_name.get(name)))
        order += [(row.systems[0], row) for row in systems if row.beside == name]
    return order


def lines_of(table, paper_rows, systems, scores, corpus, n_q):
    """The table's lines as dicts: table, testset, n_q, system, source (paper, ours), n, bitrate and the metrics.

    Metrics are `mean_ci` entries; of the paper, and where nothing was measured, with no interval or no mean.
    """
    theirs = {(row["testset"], int(row["n_q"]), row["system"]): row for row in paper_rows}
    lines = []
    for testset in [*dict.fromkeys(row["testset"] for row in paper_rows), *own_sets(table, corpus)]:
        for k in n_q:
            for system, row in system_order(paper_rows, systems):
                head = {"table": table, "testset": testset, "n_q": k, "system": system}
                quoted = theirs.get((testset, k, system))
                if quoted:
                    cells = {m: _quote(quoted, m) for m in (*METRICS, "bitrate")}
                    lines.append({**head, "source": "paper", "n": None, **cells})
                utts = scores.get((row.id, k), {}).get(testset, {}) if row else {}
                if quoted or utts or (row and testset not in NAMES):
                    cells = {m: mean_ci([u[m] for u in utts.values() if m in u]) for m in METRICS}
                    cells["bitrate"] = mean_ci([u["bitrate_codes"] for u in utts.values() if "bitrate_codes" in u])
                    lines.append({**head, "source": "ours", "n": len(utts) or None, **cells})
    return lines


def _quote(row, column, minus=None):
    """A figure of the paper as an entry without interval, or its difference to that of row `minus`."""
    if column not in row:
        return {"mean": None, "ci95": None}
    return {"mean": float(row[column]) - (float(minus[column]) if minus else 0.0), "ci95": None}


def differences(table, paper_rows, systems, scores, corpus, n_q):
    """The table's systems minus the one they are compared with: the paper's, and ours, paired by utterance."""
    theirs = {(row["testset"], int(row["n_q"]), row["system"]): row for row in paper_rows}
    order = system_order(paper_rows, systems)
    against = AGAINST.get(table, order[0][0])
    reference = dict(order)[against]
    lines = []
    for testset in [*dict.fromkeys(row["testset"] for row in paper_rows), *own_sets(table, corpus)]:
        for k in n_q:
            base = scores.get((reference.id, k), {}).get(testset, {})
            for system, row in order:
                utts = scores.get((row.id, k), {}).get(testset, {}) if row else {}
                both = base.keys() & utts.keys()
                if system == against or not both:
                    continue
                head = {"testset": testset, "n_q": k, "system": f"{system} − {against}"}
                # on another corpus, the paper's of the first of its test sets shows the sign that it found
                first = testset if testset in NAMES else paper_rows[0]["testset"]
                one, two = theirs.get((first, k, system)), theirs.get((first, k, against))
                if one and two:
                    cells = {m: _quote(one, m, two) for m in METRICS}
                    lines.append({**head, "testset": first, "source": "paper", "n": None, **cells})
                pairs = {m: [u for u in sorted(both) if m in utts[u] and m in base[u]] for m in METRICS}
                cells = {m: mean_ci([utts[u][m] - base[u][m] for u in pairs[m]]) for m in METRICS}
                lines.append({**head, "source": "ours", "n": len(both), **cells})
    return lines


def markdown(lines, with_bitrate=True):
    first = ["test set", "n_q", "system", "", "n", *(["bit/s"] if with_bitrate else [])]
    head = [*first, *METRICS.values()]
    text = ["| " + " | ".join(head) + " |", "|---|--:|---|---|--:|" + "--:|" * (len(head) - 5)]
    for line in lines:
        cells = [NAMES.get(line["testset"], line["testset"]), str(line["n_q"]), line["system"], line["source"]]
        cells.append(str(line["n"] or "-"))
        if with_bitrate:
            mean = line["bitrate"]["mean"]
            cells.append("-" if mean is None else f"{mean:.0f}")
        text.append("| " + " | ".join([*cells, *(format_mean(line[m]) for m in METRICS)]) + " |")
    return "\n".join(text)


def tsv(lines):
    header = ["table", "testset", "n_q", "system", "source", "n", "bitrate"]
    header += [column for m in METRICS for column in (m, f"{m}_ci95")]
    text = ["\t".join(header)]
    for line in lines:
        cells = [line[c] if line[c] is not None else "-" for c in header[:6]]
        cells.append(_number(line["bitrate"]["mean"]))
        cells += [_number(line[m][key]) for m in METRICS for key in ("mean", "ci95")]
        text.append("\t".join(map(str, cells)))
    return "\n".join(text) + "\n"


def _number(value):
    return "-" if value is None else f"{value:.6g}"


def write_tables(out, tables, paper, systems, corpus, n_q):
    """Write OUT/tables.md and OUT/tables.tsv from OUT/scores; returns the former's text."""
    scores = collect(out / "scores", systems, n_q)
    parts, everything = [], []
    for table in tables:
        lines = lines_of(table, paper[table], systems, scores, corpus, n_q)
        everything += lines
        parts.append(f"## Table {table}, {TITLES[table]}\n\n{markdown(lines)}\n")
        if apart := differences(table, paper[table], systems, scores, corpus, n_q):
            parts.append(f"Differences, ours paired by utterance:\n\n{markdown(apart, with_bitrate=False)}\n")
    if (out / "figure7.md").exists():
        figure = "![SSIM of the encoded features](figure7.light.png)"
        parts.append(f"## Figure 7\n\n{(out / 'figure7.md').read_text(encoding='utf-8')}\n{figure}\n")
    notes = "Ours: mean ± half width of the 95 % interval over n utterances. `-`: not measured."
    if corpus not in SETS:
        notes += f" `{corpus}` is another corpus and another size of model: not comparable with the paper's rows."
    text = "\n".join([*parts, notes]) + "\n"
    write_text(out / "tables.tsv", tsv(everything))
    write_text(out / "tables.md", text)
    return text
