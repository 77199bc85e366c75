"""A paper's tables and ours as text, of `papers.Paper` and the scores that systems_tables.py has collected.

A score stands under the name of the test set it was measured on. Test sets and systems that were not measured are `-`.
Where a system was trained with several seeds, an utterance's score is its mean over them; a table tells them apart.
"""

from papers import run_name
from row_costs import COSTS, read_costs

from pscodec.metrics.summary import CODEC, format_mean, mean_ci, read_scores
from pscodec.utils.files import write_text

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
