"""Stage 7 of separation: a page of results beside the paper's, what each system costs, and audio.

    python -m pscodec.bin.report_separation --exp exp/EL --exp exp/WAVEFORM --data data --paper paper --out report

Reads what stages 3, 5 and 6 left in the experiments and writes OUT/index.html, OUT/results.md, OUT/figures and
OUT/audio. The page needs nothing from outside its folder.
"""

import argparse
import json
from html import escape
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from pscodec.bin.evaluate_separation import CEILING, MIXTURE, REFERENCE, in_order, search
from pscodec.bin.report import read_curves
from pscodec.bin.report_figures import level, pick, training
from pscodec.data.audio import load_audio, save_audio
from pscodec.data.mixture import MixtureDataset
from pscodec.metrics.sdr import best_order
from pscodec.metrics.separation import ORDERS
from pscodec.metrics.summary import format_mean
from pscodec.utils import html, plot
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

COLUMNS = {  # the paper's, in its order, and its files' names for them
    "si_sdr": "SI-SDR",
    "si_sdri": "SI-SDRi",
    "sdr": "SDR",
    "sdri": "SDRi",
    "dnsmos_ovrl": "OVRL",
    "dnsmos_sig": "SIG",
    "dnsmos_bak": "BAK",
    "dnsmos_p808": "p808",
    "pesq": "PESQ",
    "stoi": "STOI",
    "stoii": "STOIi",
}
EPOCH = 20000  # mixtures of WSJ0-2mix's training set
WORDS = {
    "none": "no prompt",
    "estimate": "prompt from a first estimate",
    "enrol": "prompt enrolled",
    "quantised": "quantised",
    "continuous": "not quantised",
    "masked": "the mixture masked",
    "ceiling": "no mixing, sources coded",
}


ORDER_WORDS = {
    "embedding": "found in the embeddings (for separators of waveforms that of the largest SI-SDR)",
    "si_sdr": "that of the largest SI-SDR",
    "stoi": "that of the largest STOI",
}


@one_line_errors
def main(argv=None):
    args = parse(argv)
    experiments = [load_experiment(folder) for folder in args.exp]
    paper = (
        {name: read_paper(args.paper / f"{name}.tsv") for name in ("table2", "table3", "table4")} if args.paper else {}
    )
    out = args.out or args.exp[0] / "report"
    header, rows = results(experiments, paper)
    cost_header, cost_rows = costs(experiments, paper)
    names = ", ".join(e["name"] for e in experiments)
    body = [
        f"<h1>Speech separation: {escape(names)}</h1>",
        "<h2>Results</h2>",
        f"<p class='soft'>{escape(conditions_of_scoring(experiments))}</p>",
        html.table([escape(h) for h in header], [(kind, [escape(c) for c in cells]) for kind, cells in rows]),
        "<h2>Cost</h2>",
        f"<p class='soft'>{escape(COST_NOTE)}</p>",
        html.table([escape(h) for h in cost_header], [(kind, [escape(c) for c in cells]) for kind, cells in cost_rows]),
    ]
    body += [training(experiment, out) for experiment in experiments]
    body.append(examples(experiments, args, out))
    lines = [markdown(header, rows), conditions_of_scoring(experiments), markdown(cost_header, cost_rows), COST_NOTE]
    write_text(out / "results.md", "\n\n".join(lines) + "\n")
    write_text(out / "index.html", html.page(f"{names}: separation", "\n".join(filter(None, body))))
    print(f"report: {out / 'index.html'}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, action="append", help="experiment folder; may be repeated")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data dirs (%(default)s)")
    parser.add_argument("--paper", type=Path, help="folder of the paper's tables")
    parser.add_argument("--out", type=Path, help="folder to write (default: report in the first experiment)")
    parser.add_argument("--examples", type=int, default=4, help="mixtures to listen to, a split (%(default)s)")
    return parser.parse_args(argv)


def load_experiment(folder):
    """What the report needs of one experiment. Raises UserError naming the stage that is missing."""
    for name, stage in (("hyperparams.yaml", 3), ("cost.json", 5), ("summary.json", 6)):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; run stage {stage} first")
    try:
        summary, cost = (json.loads((folder / n).read_text(encoding="utf-8")) for n in ("summary.json", "cost.json"))
        keys = YAML().load((folder / "hyperparams.yaml").read_text(encoding="utf-8"))
        loss = "embedding" if "Embedding" in keys["loss"].tag.value else "waveform"
        return {
            "name": folder.name,
            "folder": folder,
            "summary": {"order": "si_sdr"} | summary,  # which early summaries do not say
            "cost": cost,
            "curves": read_curves(folder / "curves.tsv"),
            "model": keys["separator"].tag.value.rsplit(".", 1)[-1],
            "codec": Path(keys["codec"]).name if keys["codec"] else "",
            "loss": loss,
            "n_src": keys["n_src"],
            "cached": bool(keys["train_embeddings"]),
        }
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{folder}: not an experiment of this recipe ({error})") from None


def read_paper(path):
    """Rows of a table of the paper as dicts of text; lines that begin with # are notes."""
    if not path.is_file():
        raise UserError(f"{path}: no such file (--paper)")
    header, *lines = [
        line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ]
    return [dict(zip(header, line, strict=True)) for line in lines]


def conditions_of_scoring(experiments):
    rates = {(e["summary"]["sample_rate"], e["summary"]["pesq"]) for e in experiments}
    how = " and ".join(f"{rate} Hz with PESQ {'wideband' if mode == 'wb' else 'narrowband'}" for rate, mode in rates)
    orders = " and ".join(sorted({ORDER_WORDS[e["summary"]["order"]] for e in experiments}))
    return (
        f"Scored at {how}; DNSMOS after resampling to 16 kHz. Mean over n mixtures, the sources of each averaged, with "
        "the half width of its 95 % interval; one order of the estimates for all metrics, "
        f"{orders}. dB: SI-SDR (means removed), SDR (BSS Eval 3, 512 taps), i: improvement over the mixture. "
        "The paper's rows are of WSJ0-2mix and codecs of other trainings: not comparable with a small corpus."
    )


COST_NOTE = (
    "GMACs: multiply-accumulate operations for 2 s of mixture. Encoder: of one signal. In training: a forward pass; "
    "with the embedding loss the separator, and encoders for mixture and sources unless embeddings are cached; with "
    "the waveform loss encoder, separator and a decoder for each source. In use: encoder, separator, a decoder for "
    "each source. Every product is counted, attention's too; the column by modules holds what lies inside plain torch "
    "layers, all that a counter of modules such as PyTorch-OpCounter sees: it misses attention and, of SpeechBrain's "
    "and torch's attention modules, the projections to queries, keys and values (the paper's 77.3 for SepFormer is "
    "this count), and layers under a weight norm. Mixtures/s: median of the training log; "
    f"h/epoch: {EPOCH:,} mixtures at this rate, of the training's segment length."
)


def label(condition):
    return ", ".join(WORDS.get(word, word) for word in condition.split("_"))


def results(experiments, paper):
    """`(header, rows)` of Tables II and III; rows are `(class, cells)` of text."""
    header = ["codec", "loss", "decoding", "n", *COLUMNS.values()]
    rows = []
    for split in dict.fromkeys(s for e in experiments for s in e["summary"]["splits"]):
        rows.append(("head", [split]))
        seen = set()
        for e in experiments:
            for condition, entry in e["summary"]["splits"].get(split, {}).items():
                plain = condition in (MIXTURE, REFERENCE)
                same = condition if plain else (e["codec"], condition) if condition.startswith(CEILING) else None
                if same in seen:
                    continue  # of the mixture, and of one codec, every experiment says the same
                seen.update({same} - {None})
                codec, loss = ("-", "-") if plain else (e["codec"] or e["model"], e["loss"])
                name = {MIXTURE: "the mixture itself", REFERENCE: "the sources"}.get(condition, label(condition))
                loss = "-" if condition.startswith(CEILING) else loss
                kind = "" if plain or condition.startswith(CEILING) else "main"
                n = entry["mixtures"]
                cells = [codec, loss, name, str(n), *(format_mean(entry.get(c), n) for c in COLUMNS)]
                rows.append((kind, cells))
    for name, title in (("table2", "the paper's Table II"), ("table3", "the paper's Table III")):
        if name in paper:
            rows.append(("head", [f"{title} (WSJ0-2mix)"]))
            for row in paper[name]:
                cells = [f"{row['codec']}, {row['pretraining']}", row["loss"], "", "3000"]
                rows.append(("paper", [*cells, *(row.get(c, "-") for c in COLUMNS)]))
    return header, rows


def costs(experiments, paper):
    """`(header, rows)` of Table IV."""
    header = ["", "encoder", "separator", "of it attention", "by modules", "decoder", "in training", "in use"]
    header += ["mixtures/s", "h/epoch"]
    rows = []
    for e in experiments:
        cost, giga = e["cost"], lambda macs: f"{macs / 1e9:.2f}"
        parts = {part: cost.get(part, {}).get("total", 0) for part in ("encoder", "separator", "decoder", "refiner")}
        heard = parts["decoder"] + parts["refiner"]
        encoded = 0 if e["cached"] else 1 + e["n_src"] if e["loss"] == "embedding" else 1
        decoded = e["n_src"] if e["loss"] == "waveform" else 0
        training = parts["separator"] + encoded * parts["encoder"] + decoded * heard
        speeds = e["curves"].get("mixtures_per_second", {}).get("train", ([], []))[1]
        speed = float(np.median(speeds)) if speeds else None
        rows.append(
            (
                "main",
                [
                    f"{e['name']}: {e['model']}, {e['loss']} loss" + (", embeddings cached" if e["cached"] else ""),
                    giga(parts["encoder"]),
                    giga(parts["separator"]),
                    giga(cost["separator"]["attention"]),
                    giga(cost["separator"]["plain"]),
                    giga(parts["decoder"]),
                    giga(training),
                    giga(parts["encoder"] + parts["separator"] + e["n_src"] * heard),
                    f"{speed:.1f}" if speed else "-",
                    f"{EPOCH / speed / 3600:.2f}" if speed else "-",
                ],
            )
        )
    if "table4" in paper:
        rows.append(("head", ["the paper's Table IV (2 s at 8 kHz, counted by modules; V100)"]))
        blank = [""] * 3
        rows += [("paper", [r["system"], *blank, "", "", r["gmacs"], "", "", r["hours"]]) for r in paper["table4"]]
    return header, rows


def examples(experiments, args, out):
    """Players, and spectrograms of the first experiment's, of some mixtures of each split; copies the audio."""
    parts = ["<h2>Listen and look</h2>", "<p class='soft'>At even steps from the lowest to the highest STOI.</p>"]
    for split in experiments[0]["summary"]["splits"]:
        dataset = MixtureDataset(args.data / split)
        index = {m.mix: i for i, m in enumerate(dataset.mixtures)}
        rows = [r for r in read_rows(experiments[0]["folder"]) if r["split"] == split and r["utt"] in index]
        first = next((r["condition"] for r in rows if r["condition"] not in (MIXTURE, REFERENCE)), None)
        chosen = pick([r for r in rows if r["condition"] == first], args.examples)
        parts.append(f"<h3>{escape(split)}</h3>" if chosen else "")
        for row in progress(chosen, "figures and audio"):
            parts.append(example(split, dataset[index[row["utt"]]], dataset.sample_rate, first, experiments, out))
    return "\n".join(filter(None, parts))


def read_rows(folder):
    """Rows of scores.tsv: text keys, numbers else; what is `-` or `nan` is left out."""
    header, *lines = [r.split("\t") for r in (folder / "scores.tsv").read_text(encoding="utf-8").splitlines()]
    rows = (dict(zip(header, line, strict=True)) for line in lines)
    return [
        {k: v if k in header[:3] else float(v) for k, v in row.items() if k in header[:3] or v not in ("-", "nan")}
        for row in rows
    ]


def example(split, item, rate, shown, experiments, out):
    utt, refs = item["utt"], item["sources"]
    tracks = [("mixture", item["mix"][0])] + [(f"source {s}", ref) for s, ref in enumerate(refs, 1)]
    drawn = list(tracks)
    for number, e in enumerate(experiments):
        for folder in sorted((e["folder"] / "separated").glob(f"{split}.*")):
            condition = folder.name[len(split) + 1 :]
            paths = [folder / f"{utt}.s{s}.wav" for s in range(1, len(refs) + 1)]
            if not all(path.is_file() for path in paths):
                continue
            hyps = [load_audio(path)[0][0] for path in paths]
            order = range(len(refs))
            if not in_order(folder, e["summary"]["order"]):
                order = best_order(refs.numpy(), np.stack(hyps), ORDERS[search(e["summary"]["order"])], rate)
            named = [(f"{e['name']}: {label(condition)}, source {s}", hyps[j]) for s, j in enumerate(order, 1)]
            tracks += named
            drawn += named if (number, condition) == (0, shown) else []
    stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in f"{split}.{utt}")
    items = []
    for i, (name, wav) in enumerate(tracks):
        save_audio(out / f"audio/{stem}.{i}.wav", wav, rate)
        items.append((f"audio/{stem}.{i}.wav", name))
    for theme in plot.THEMES:
        levels, titles = [level(wav, rate) for _, wav in drawn], [name for name, _ in drawn]
        plot.spectrograms(out / f"figures/{stem}.{theme}.png", levels, titles, rate, 240, theme)
    figure = html.picture(
        f"figures/{stem}.light.png", f"figures/{stem}.dark.png", f"spectrograms of {utt}", "spectrogram"
    )
    return f"<div class='card'><b>{escape(utt)}</b>{html.players(items)}{figure}</div>"


def markdown(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for _, cells in rows:
        cells = [f"**{cells[0]}**"] + [""] * (len(header) - 1) if len(cells) == 1 else cells
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
