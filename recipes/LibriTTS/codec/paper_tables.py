"""Tables of the PSCodec and TiCodec papers and ours as text: reads paper/ and the scores that tables.py has collected.

A score stands under the name of the test set it was measured on. Test sets and systems that were not measured are `-`.
Where a system was trained with several seeds, an utterance's score is its mean over them; a table tells them apart.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from row_costs import COSTS, read_costs

from pscodec.bin.report import read_paper
from pscodec.metrics.summary import CODEC, format_mean, mean_ci, read_scores
from pscodec.utils.files import write_text

HERE = Path(__file__).parent
METRICS = {  # the papers', and two more of ours
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


@dataclass(frozen=True)
class Row:
    """A line of systems.tsv."""

    id: str
    systems: tuple[str, ...]
    config: str
    parent: str | None
    steps: int
    train_args: str
    beside: str | None


@dataclass(frozen=True)
class Paper:
    """A paper's tables: `folder` has table1.tsv ... and, in systems.tsv, how we train their rows; `titles` by table.

    `n_q`: numbers of codebooks. `against`: what the others are compared with, by table, else its first system. `sets`:
    our splits of the corpora it tests on -> its names; `names`: these in words. `unheard`: tables of speech unlike that
    of training, with their test corpora. `test_sets`: of LibriTTS, where they are not run.sh's.
    """

    folder: Path
    titles: dict[str, str]
    n_q: str
    against: dict[str, str]
    sets: dict[str, dict[str, str]]
    names: dict[str, str]
    unheard: dict[str, tuple[str, ...]]
    test_sets: str = ""
    out: str = "tables"

    @cached_property
    def systems(self):
        """The `Row`s of systems.tsv; `-` is none."""
        text = (self.folder / "systems.tsv").read_text(encoding="utf-8")
        rows = []
        for line in [line for line in text.splitlines() if line and line[0] != "#"][1:]:
            id_, systems, config, parent, steps, train_args, beside = (c if c != "-" else "" for c in line.split("\t"))
            names = tuple(name.strip() for name in systems.split(";"))
            rows.append(Row(id_, names, config, parent or None, int(steps), train_args, beside or None))
        return rows

    @cached_property
    def rows(self):
        """Its own figures: table -> rows."""
        return {t: read_paper(self.folder / f"table{i}.tsv") for i, t in enumerate(self.titles, 1)}

    def order(self, table):
        """`[(system, Row or None)]` as a table lists them, with those that stand beside one of them."""
        by_name = {name: row for row in self.systems if not row.beside for name in row.systems}
        order = []
        for name in dict.fromkeys(row["system"] for row in self.rows[table]):
            order.append((name, by_name.get(name)))
            order += [(row.systems[0], row) for row in self.systems if row.beside == name]
        return order

    def test_sets_of(self, table, corpus):
        """The paper's, and those of a corpus that it does not have: a voice never heard is out of domain."""
        sets = [*dict.fromkeys(row["testset"] for row in self.rows[table])]
        if corpus in self.sets:
            return sets
        return [*sets, f"{corpus} test_unseen" if table in self.unheard else f"{corpus} test"]


PSCODEC = Paper(
    folder=HERE / "paper",
    titles={
        "I": "in domain: LibriTTS test-clean and test-other",
        "II": "out of domain: LJSpeech",
        "III": "ablation of PSCodec-CasAN",
        "IV": "ablation of PSCodec-DRL-ICT",
        "V": "ablation of PSCodec-Base",
    },
    n_q="1 2",
    against={"I": "PSCodec-Base", "II": "PSCodec-Base"},
    sets={
        "libritts": {"test_clean": "test_clean", "test_other": "test_other"},
        "ljspeech": {"test_ljspeech": "ljspeech"},
    },
    names={"test_clean": "LibriTTS test-clean", "test_other": "LibriTTS test-other", "ljspeech": "LJSpeech"},
    unheard={"II": ("ljspeech",)},
)
TICODEC = Paper(
    folder=HERE / "paper/ticodec",
    titles={"1": "in domain: LibriTTS", "2": "out of domain: AISHELL-3 and VCTK"},
    n_q="1 2 4",
    against={"1": "HifiCodec", "2": "HifiCodec"},
    sets={
        "libritts": {"test_100": "libritts"},
        "aishell3": {"test_aishell3": "aishell3"},
        "vctk": {"test_vctk": "vctk"},
    },
    names={"libritts": "LibriTTS", "aishell3": "AISHELL-3", "vctk": "VCTK"},
    unheard={"2": ("aishell3", "vctk")},
    test_sets="test_100",
    out="ticodec_tables",
)
PAPERS = {"pscodec": PSCODEC, "ticodec": TICODEC}


def run_name(row, n_q, seed):
    return f"{row.id}_{n_q}q" + (f"_seed{seed}" if seed else "")


def collect(folder, paper, n_q):
    """`{(row id, n_q): {test set: {seed: {utt: scores}}}}` of the files ROW_Nq[_seedS].CORPUS.tsv in `folder`."""
    found = {}
    for row in paper.systems:
        for k in n_q:
            name = run_name(row, k, 0)
            for path in sorted([*folder.glob(f"{name}.*.tsv"), *folder.glob(f"{name}_seed*.*.tsv")]):
                run, corpus, _ = path.name.split(".")
                seed = int(run.removeprefix(name).removeprefix("_seed") or 0)
                for score in read_scores(path):
                    if score["condition"] == CODEC:
                        testset = paper.sets.get(corpus, {}).get(score["split"], f"{corpus} {score['split']}")
                        by_seed = found.setdefault((row.id, k), {}).setdefault(testset, {})
                        by_seed.setdefault(seed, {})[score["utt"]] = score
    return found


def over_seeds(by_seed):
    """`{utt: scores}`, each its mean over the seeds that have it, of `{seed: {utt: scores}}`."""
    utts = {}
    for scores in by_seed.values():
        for utt, score in scores.items():
            for name, value in score.items():
                if isinstance(value, float):
                    utts.setdefault(utt, {}).setdefault(name, []).append(value)
    return {utt: {name: sum(found) / len(found) for name, found in of.items()} for utt, of in utts.items()}


def lines_of(paper, table, scores, corpus, n_q):
    """The table's lines as dicts: table, testset, n_q, system, row, source (paper, ours), n, seeds, bitrate, metrics.

    Metrics are `mean_ci` entries; of the paper, and where nothing was measured, with no interval or no mean.
    """
    theirs = {(row["testset"], int(row["n_q"]), row["system"]): row for row in paper.rows[table]}
    lines = []
    for testset in paper.test_sets_of(table, corpus):
        for k in n_q:
            for system, row in paper.order(table):
                head = {"table": table, "testset": testset, "n_q": k, "system": system, "row": row and row.id}
                quoted = theirs.get((testset, k, system))
                if quoted:
                    cells = {m: _quote(quoted, m) for m in (*METRICS, "bitrate")}
                    lines.append({**head, "source": "paper", "n": None, "seeds": None, **cells})
                by_seed = scores.get((row.id, k), {}).get(testset, {}) if row else {}
                if quoted or by_seed or (row and testset not in paper.names):
                    cells = {"seeds": len(by_seed) or None, **_means(over_seeds(by_seed))}
                    lines.append({**head, "source": "ours", **cells})
    return lines


def _means(utts):
    """`n`, and `mean_ci` of every metric and of the bit rate of codes, of `{utt: scores}`."""
    cells = {m: mean_ci([u[m] for u in utts.values() if m in u]) for m in METRICS}
    rate = mean_ci([u["bitrate_codes"] for u in utts.values() if "bitrate_codes" in u])
    return {"n": len(utts) or None, **cells, "bitrate": rate}


def _quote(row, column, minus=None):
    """A figure of the paper as an entry without interval, or its difference to that of row `minus`."""
    if column not in row:
        return {"mean": None, "ci95": None}
    return {"mean": float(row[column]) - (float(minus[column]) if minus else 0.0), "ci95": None}


def differences(paper, table, scores, corpus, n_q):
    """The table's systems minus the one they are compared with: the paper's, and ours, paired by utterance."""
    theirs = {(row["testset"], int(row["n_q"]), row["system"]): row for row in paper.rows[table]}
    order = paper.order(table)
    against = paper.against.get(table, order[0][0])
    reference = dict(order)[against]
    first = paper.rows[table][0]["testset"]  # on another corpus, the paper's of this one shows the sign that it found
    lines = []
    for testset in paper.test_sets_of(table, corpus):
        for k in n_q:
            base = over_seeds(scores.get((reference.id, k), {}).get(testset, {}))
            for system, row in order:
                utts = over_seeds(scores.get((row.id, k), {}).get(testset, {}) if row else {})
                both = sorted(base.keys() & utts.keys())
                if system == against or not both:
                    continue
                head = {"testset": testset, "n_q": k, "system": f"{system} − {against}"}
                known = testset if testset in paper.names else first
                one, two = theirs.get((known, k, system)), theirs.get((known, k, against))
                if one and two:
                    cells = {m: _quote(one, m, two) for m in METRICS}
                    lines.append({**head, "testset": known, "source": "paper", "n": None, **cells})
                pairs = {m: [u for u in both if m in utts[u] and m in base[u]] for m in METRICS}
                cells = {m: mean_ci([utts[u][m] - base[u][m] for u in pairs[m]]) for m in METRICS}
                lines.append({**head, "source": "ours", "n": len(both), **cells})
    return lines


def each_seed(paper, table, scores, corpus, n_q):
    """A line for each training of the table's systems that were trained more than once, as `lines_of`."""
    lines = []
    for testset in paper.test_sets_of(table, corpus):
        for k in n_q:
            for system, row in paper.order(table):
                by_seed = scores.get((row.id, k), {}).get(testset, {}) if row else {}
                for seed, utts in sorted(by_seed.items()) if len(by_seed) > 1 else ():
                    head = {"testset": testset, "n_q": k, "system": system, "source": f"seed {seed}"}
                    lines.append({**head, **_means(utts)})
    return lines


def markdown(lines, names, costs=None):
    """Lines as a table; of those of `lines_of`, the bit rate and the seeds, and what each row cost, too."""
    whole, costs = costs is not None, costs or {}
    used = [m for m in METRICS if any(line[m]["mean"] is not None for line in lines)]
    head = ["test set", "n_q", "system", "", "n", *(["seeds", "bit/s"] if whole else []), *(METRICS[m] for m in used)]
    spent = [c for c in COSTS if any(cost.get(c) for cost in costs.values())]
    head += [COSTS[c] for c in spent]
    text = ["| " + " | ".join(head) + " |", "|---|--:|---|---|--:|" + "--:|" * (len(head) - 5)]
    for line in lines:
        cells = [names.get(line["testset"], line["testset"]), str(line["n_q"]), line["system"], line["source"]]
        cells.append(str(line["n"] or "-"))
        if whole:
            mean, cost = line["bitrate"]["mean"], costs.get((line["row"], line["n_q"]), {})
            cells += [str(line["seeds"] or "-"), "-" if mean is None else f"{mean:.0f}"]
        cells += [format_mean(line[m], line["n"]) for m in used]
        if whole:
            cells += [f"{cost[c]:.1f}" if line["n"] and cost.get(c) else "-" for c in spent]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def tsv(lines):
    header = ["table", "testset", "n_q", "system", "source", "n", "seeds", "bitrate"]
    header += [column for m in METRICS for column in (m, f"{m}_ci95")]
    text = ["\t".join(header)]
    for line in lines:
        cells = [line[c] if line[c] is not None else "-" for c in header[:7]]
        cells.append(_number(line["bitrate"]["mean"]))
        cells += [_number(line[m][key]) for m in METRICS for key in ("mean", "ci95")]
        text.append("\t".join(map(str, cells)))
    return "\n".join(text) + "\n"


def _number(value):
    return "-" if value is None else f"{value:.6g}"


def write_tables(out, tables, paper, corpus, n_q):
    """Write OUT/tables.md and OUT/tables.tsv from OUT/scores; returns the former's text."""
    scores, costs = collect(out / "scores", paper, n_q), read_costs(out / "scores", paper, n_q)
    parts, everything = [], []
    for table in tables:
        lines = lines_of(paper, table, scores, corpus, n_q)
        everything += lines
        parts.append(f"## Table {table}, {paper.titles[table]}\n\n{markdown(lines, paper.names, costs)}\n")
        if apart := differences(paper, table, scores, corpus, n_q):
            parts.append(f"Differences, ours paired by utterance:\n\n{markdown(apart, paper.names)}\n")
        if seeds := each_seed(paper, table, scores, corpus, n_q):
            parts.append(f"Each training by itself:\n\n{markdown(seeds, paper.names)}\n")
    if (out / "figure7.md").exists():
        figure = "![SSIM of the encoded features](figure7.light.png)"
        parts.append(f"## Figure 7\n\n{(out / 'figure7.md').read_text(encoding='utf-8')}\n{figure}\n")
    notes = "Ours: mean ± half width of the 95 % interval over n utterances, means over seeds. `-`: not measured."
    if corpus not in paper.sets:
        notes += f" `{corpus}` is another corpus and another size of model: not comparable with the paper's rows."
    text = "\n".join([*parts, notes]) + "\n"
    write_text(out / "tables.tsv", tsv(everything))
    write_text(out / "tables.md", text)
    return text
