"""Stage 7: a page of results, beside the paper's, with figures and audio.

    python -m pscodec.bin.report --exp exp/NAME --data data --paper paper/table1.tsv --out exp/NAME/report

Reads what stages 3, 5 and 6 left in the experiments (several --exp are laid side by side) and writes
OUT/index.html, OUT/results.md, OUT/figures and OUT/audio. The page needs nothing from outside its folder.
"""

import argparse
import json
import re
from collections import defaultdict
from html import escape
from pathlib import Path

import numpy as np

from pscodec.metrics.summary import BITS, CODEC, REFERENCE, format_mean, read_scores
from pscodec.utils import html, plot
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

ARROWS = {"mcd": "↓", "mcd_linear": "↓"}  # lower is better; for all others higher is
COLUMNS = {  # the main table; the paper's columns have the same names
    "bitrate_codes": "codes<br>bit/s",
    "bitrate_total": "all bytes<br>bit/s",
    "pesq": "PESQ",
    "stoi": "STOI",
    "visqol": "ViSQOL",
    "utmos": "UTMOS",
    "si_snr": "SI-SNR<br>dB",
    "mcd_linear": "MCD<br>linear Mel",
    "secs": "SECS",
    "mcd": "MCD<br>cepstral, dB",
    "dnsmos_ovrl": "DNSMOS<br>OVRL",
    "dnsmos_sig": "DNSMOS<br>SIG",
    "dnsmos_bak": "DNSMOS<br>BAK",
    "dnsmos_p808": "DNSMOS<br>P.808",
}
CONDITIONS = {
    CODEC: "codec",
    REFERENCE: "the recordings themselves",
    "shuffled_codes": "control: codes shuffled",
    "wrong_prompt": "control: prompt of a wrong speaker",
}
ORDER = ("total", "wav", "mel", "feat", "quant", "adv", "disc", "usage", "perplexity", "lr")  # of the curves
SHOWN_SECONDS = 4.0  # of each spectrogram


@one_line_errors
def main(argv=None):
    args = parse(argv)
    experiments = [load_experiment(folder) for folder in args.exp]
    paper = read_paper(args.paper) if args.paper else []
    out = args.out or args.exp[0] / "report"
    body = [heading(experiments), results(experiments, paper, args), codebooks(experiments)]
    body += [training(experiment, out) for experiment in experiments]
    body.append(examples(experiments, args, out))
    names = ", ".join(e["name"] for e in experiments)
    write_text(out / "results.md", markdown(experiments, paper, args))
    write_text(out / "index.html", html.page(f"{names}: results", "\n".join(filter(None, body))))
    print(f"report: {out / 'index.html'}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, action="append", help="experiment folder; may be repeated")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data dirs (%(default)s)")
    parser.add_argument("--paper", type=Path, help="table of the paper's figures")
    parser.add_argument("--paper-system", default="PSCodec-Base", help="its row to lay beside ours (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder to write (default: report in the first experiment)")
    parser.add_argument("--examples", type=int, default=6, help="utterances to listen to, a split (%(default)s)")
    parser.add_argument("--allow-pipes", action="store_true", help="let a wav.scp hold commands")
    return parser.parse_args(argv)


def load_experiment(folder):
    """What the report needs of one experiment. Raises UserError naming the stage that is missing."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such experiment")
    for name in ("scores.tsv", "summary.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; run stage 6 (evaluate) first")
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{folder / 'summary.json'}: not valid JSON; run stage 6 (evaluate) again") from None
    config = folder / "hyperparams.yaml"
    model = re.search(r"^codec:\s*!new:([\w.]+)", config.read_text(encoding="utf-8"), re.M) if config.is_file() else None
    curves = read_curves(folder / "curves.tsv")
    steps = [s for sets in curves.values() for steps, _ in sets.values() for s in steps]
    return {
        "name": folder.name,
        "folder": folder,
        "summary": summary,
        "scores": read_scores(folder / "scores.tsv"),
        "model": model[1].rsplit(".", 1)[-1] if model else None,
        "curves": curves,
        "steps": int(max(steps)) if steps else None,
    }


def read_curves(path):
    """`{name: {set: (steps, values)}}` of a curves.tsv; empty without the file. A broken last line is left out."""
    curves = defaultdict(dict)
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
    for line in lines:
        try:
            step, which, name, value = line.split("\t")
            point = float(step), float(value)
        except ValueError:
            continue
        steps, values = curves[name].setdefault(which, ([], []))
        steps.append(point[0])
        values.append(point[1])
    return curves


def read_paper(path):
    """Rows of a table of the paper as dicts of text; lines that begin with # are notes."""
    if not path.is_file():
        raise UserError(f"{path}: no such file (--paper)")
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    rows = [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]
    if not rows or any(key not in row for row in rows for key in ("system", "testset", "n_q", "bitrate")):
        raise UserError(f"{path}: not a table of the paper's figures (columns testset, system, n_q, bitrate ...)")
    return rows


def paper_cells(row):
    return [row["bitrate"] if c == "bitrate_codes" else row.get(c) or "-" for c in COLUMNS]


def paper_rows(experiments, paper, system=None):
    """The paper's rows for as many codebooks as the experiments use; only `system`'s if given."""
    books = {len(c[CODEC]["codebooks"]) for e in experiments for c in e["summary"].values() if CODEC in c}
    rows = [row for row in paper if not books - {0} or int(row["n_q"]) in books]
    return [row for row in rows if system is None or row["system"] == system]


def heading(experiments):
    first = experiments[0]
    summary = first["summary"]
    split = next(iter(summary))
    entry = summary[split][CODEC]
    items = [(f"{first['steps']:,}", "training steps")] if first["steps"] else []
    for column, caption in (
        ("bitrate_codes", "bit/s, codes alone"),
        ("bitrate_total", "bit/s, all bytes of the files"),
        ("stoi", "STOI"),
        ("pesq", "PESQ, wideband"),
        ("visqol", "ViSQOL, speech"),
    ):
        if entry.get(column, {}).get("mean") is not None:
            mean = entry[column]["mean"]
            items.append((f"{mean:,.0f}" if column in BITS else f"{mean:.2f}", f"{caption} · {split}"))
    system = " · ".join(f"{e['name']}" + (f" ({e['model']})" if e["model"] else "") for e in experiments)
    return f"<h1>{escape(system)}</h1>\n<p class='soft'>A speech codec, scored on real files.</p>\n{html.tiles(items)}"


def result_rows(experiments):
    """`(split, experiment, condition, entry)`, split by split, the codec first."""
    splits = list(dict.fromkeys(split for e in experiments for split in e["summary"]))
    for split in splits:
        for e in experiments:
            for condition, entry in sorted(e["summary"].get(split, {}).items(), key=lambda item: item[0] != CODEC):
                yield split, e, condition, entry


def label(experiment, condition):
    words = CONDITIONS.get(condition, condition.replace("_", " "))
    return experiment["name"] if condition == CODEC else f"{experiment['name']}, {words}"


def results(experiments, paper, args):
    present = [c for c in COLUMNS if any(c in entry for *_, entry in result_rows(experiments))]
    paper_shown = paper_rows(experiments, paper, args.paper_system)
    shown = [c for c in COLUMNS if c in present or any(row.get(c) for row in paper_shown)]
    header = ["", "n", *(f"{COLUMNS[c]} {'' if c in BITS else ARROWS.get(c, '↑')}" for c in shown)]
    rows, split_now = [], None
    for split, experiment, condition, entry in result_rows(experiments):
        if split != split_now:
            rows.append(("head", [escape(split)]))
            split_now = split
        cells = [_cell(entry.get(c)) for c in shown]
        kind = "main" if condition == CODEC else ""
        rows.append((kind, [escape(label(experiment, condition)), str(entry["utterances"]), *cells]))
    header_paper = "the paper, on LibriTTS: other recordings, other training, not comparable with the rows above"
    rows += [("head", [header_paper])] if paper_shown else []
    rows += [("paper", _paper_html(row, shown)) for row in paper_shown]
    parts = [
        "<h2>Results</h2>",
        "<p class='soft'>Mean over utterances, with the half width of its 95 % interval (Student's t); n utterances. "
        "↑ higher is better, ↓ lower. Bit rates are counted from the bytes of the coded files: the codes alone, "
        "and everything in them, with the prompt vectors and the container. A dash: not measured.</p>",
        html.table(header, rows),
        _failures(experiments),
    ]
    if len(paper_rows(experiments, paper)) > len(paper_shown):
        rest = [("paper", _paper_html(row, shown)) for row in paper_rows(experiments, paper)]
        parts.append(f"<details><summary>All systems in the paper's table</summary>{html.table(header, rest)}</details>")
    parts.append(
        "<details><summary>How each score is computed</summary><p class='small'>PESQ: ITU-T P.862.2, wideband, 16 kHz. "
        "STOI: not extended, signals given at 24 kHz, computed at 10 kHz. ViSQOL: v3, speech mode, 16 kHz, lattice; a "
        "copy scores about 4.4 to 4.7. DNSMOS: P.835 (OVRL, SIG, BAK) and P.808, 16 kHz, no reference. SI-SNR: zero mean, "
        "24 kHz. MCD cepstral: order 24, alpha 0.466, without c0, no alignment, from the STFT. MCD linear Mel: "
        "10/ln10·√2·‖mel−mel′‖ on 128 magnitude bands (n_fft 1024, window 512, hop 128), what codec papers print "
        "as MCD. SECS: cosine of CAM++ embeddings; the codec is conditioned on the same network, which favours it."
        "</p></details>"
    )
    return "\n".join(parts)


def _paper_html(row, shown):
    values = dict(zip(COLUMNS, paper_cells(row), strict=True))
    name = f"{row['system']}, {row['testset'].replace('_', '-')}, {row['n_q']} codebook{'s' * (row['n_q'] != '1')}"
    return [escape(name), "-", *(values[c] for c in shown)]


def _cell(entry):
    mean, _, half = format_mean(entry).partition(" ± ")
    return f"{mean}<small>± {half}</small>" if half and float(half) > 0 else mean


def _failures(experiments):
    lines = []
    for split, experiment, condition, entry in result_rows(experiments):
        for column, value in entry.items():
            if isinstance(value, dict) and value.get("failed"):
                where = f"{split}, {label(experiment, condition)}"
                lines.append(f"{column}: undefined for {value['failed']} of {value['failed'] + value['n']} ({where})")
    if not lines:
        return ""
    return "<p class='small soft'>Left out of a mean: " + escape("; ".join(lines)) + ".</p>"


def codebooks(experiments):
    rows = []
    for split, experiment, condition, entry in result_rows(experiments):
        for k, book in enumerate(entry.get("codebooks", []) if condition == CODEC else []):
            rows.append(
                (
                    "",
                    [
                        escape(f"{experiment['name']}, {split}, codebook {k}"),
                        f"{book['frames']:,}",
                        f"{book['used']} of {book['size']}",
                        f"{100 * book['usage']:.1f} %",
                        f"{book['perplexity']:.1f}",
                        f"{np.log2(book['perplexity']):.2f} of {np.log2(book['size']):.0f}",
                    ],
                )
            )
    if not rows:
        return ""
    header = ["", "frames", "entries used", "usage", "perplexity", "entropy, bits a code"]
    return "<h2>Codebooks</h2>\n" + html.table(header, rows)


def training(experiment, out):
    curves = experiment["curves"]
    names = [n for n in ORDER if n in curves] + sorted(n for n in curves if n not in ORDER and "seconds" not in n)
    if not names:
        return ""
    for theme in plot.THEMES:
        path = out / "figures" / f"{experiment['name']}.curves.{theme}.png"
        plot.curves(path, {name: curves[name] for name in names}, theme=theme)
    stem = f"figures/{experiment['name']}.curves"
    return (
        f"<h2>Training: {escape(experiment['name'])}</h2>\n<div class='card'>"
        + html.picture(f"{stem}.light.png", f"{stem}.dark.png", "training curves")
        + "</div>"
    )


def pick(rows, count):
    """`count` utterances at even steps from the lowest to the highest STOI (else SI-SNR), so that none are chosen."""
    key = next((k for k in ("stoi", "si_snr", "pesq") if any(k in row for row in rows)), None)
    ranked = sorted((r for r in rows if key is None or key in r), key=lambda r: (r[key] if key else 0, r["utt"]))
    if len(ranked) <= count:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / max(1, count - 1))] for i in range(count)]


def examples(experiments, args, out):
    """Spectrograms and players of some utterances of each split; copies the audio."""
    todo = []
    first = experiments[0]
    for split in first["summary"]:
        rows = [row for row in first["scores"] if (row["split"], row["condition"]) == (split, CODEC)]
        todo += [(split, row) for row in pick(rows, args.examples)]
    parts, split_now = ["<h2>Listen and look</h2>"], None
    parts.append(
        "<p class='soft'>At even steps from the lowest to the highest STOI of each split. Spectrograms: one colour "
        f"scale for both, 80 dB, the first {SHOWN_SECONDS:g} seconds.</p>"
    )
    for split, row in progress(todo, "figures and audio"):
        if split != split_now:
            parts.append(f"<h3>{escape(split)}</h3>")
            split_now = split
        parts.append(example(split, row, experiments, args, out))
    return "\n".join(parts) if todo else ""


def example(split, row, experiments, args, out):
    from pscodec.data.audio import load_audio, save_audio
    from pscodec.data.kaldi import read_data_dir

    utt = row["utt"]
    safe = re.sub(r"[^\w.-]", "_", f"{split}.{utt}")
    decoded = []
    for e in experiments:
        for folder in sorted((e["folder"] / "decode").glob(f"{split}*")):
            condition = folder.name[len(split) + 1 :] or CODEC
            path = folder / "wav" / f"{utt}.wav"
            if folder.name.split(".")[0] == split and path.is_file():
                decoded.append((label(e, condition), condition, path))
    decoded.sort(key=lambda item: item[1] != CODEC)
    if not decoded:
        return ""
    utterance = read_data_dir(args.data / split, allow_pipes=args.allow_pipes)[utt]
    wavs = [load_audio(path) for _, _, path in decoded]
    rate = wavs[0][1]
    ref, _ = load_audio(utterance.path, rate, utterance.start, utterance.end)
    items, titles, levels = [], [], []
    tracks = [("reference", REFERENCE, ref)]
    tracks += [(name, condition, wav) for (name, condition, _), (wav, _) in zip(decoded, wavs, strict=True)]
    for i, (name, condition, wav) in enumerate(tracks):
        path = f"audio/{safe}.{i}.wav"
        save_audio(out / path, wav, rate)
        items.append((path, name))
        if condition in (REFERENCE, CODEC):
            titles.append(name)
            levels.append(level(wav[0], rate))
    for theme in plot.THEMES:
        plot.spectrograms(out / "figures" / f"{safe}.{theme}.png", levels, titles, rate, 240, theme)
    scores = ", ".join(f"{n} {row[k]:.2f}" for k, n in (("stoi", "STOI"), ("pesq", "PESQ")) if k in row)
    figure = html.picture(f"figures/{safe}.light.png", f"figures/{safe}.dark.png", f"spectrograms of {utt}", "spectrogram")
    caption = f"<b>{escape(utt)}</b> <span class='soft small'>{row['seconds']:.1f} s · {escape(scores)}</span>"
    return f"<div class='card'>{caption}{html.players(items)}{figure}</div>"


def level(wav, sample_rate):
    """dB spectrogram `[513, F]` of `wav` `[L]`: 1024 points, hop 240, of its first seconds."""
    from pscodec.features import stft

    magnitude = stft(wav[: int(SHOWN_SECONDS * sample_rate)], 1024, 240).abs().numpy()
    return 20 * np.log10(np.maximum(magnitude, 1e-5))


def markdown(experiments, paper, args):
    """The main table as Markdown."""
    shown = [c for c in COLUMNS if any(c in entry for *_, entry in result_rows(experiments))]
    names = [COLUMNS[c].replace("<br>", " ") for c in shown]
    lines = ["| split | system | n | " + " | ".join(names) + " |", "|---|---|--:|" + "--:|" * len(shown)]
    for split, experiment, condition, entry in result_rows(experiments):
        cells = [split, label(experiment, condition), str(entry["utterances"])]
        lines.append("| " + " | ".join(cells + [format_mean(entry.get(c)) for c in shown]) + " |")
    for row in paper_rows(experiments, paper, args.paper_system):
        values = dict(zip(COLUMNS, paper_cells(row), strict=True))
        cells = [f"LibriTTS {row['testset'].replace('_', '-')}", f"{row['system']} in the paper (not comparable)", "-"]
        lines.append("| " + " | ".join(cells + [values[c] for c in shown]) + " |")
    return "\n".join(lines) + "\n\nMean ± half width of the 95 % interval over n utterances.\n"


if __name__ == "__main__":
    main()
