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

from pscodec.bin import report_speech
from pscodec.bin.report_figures import examples, label, training, words
from pscodec.bin.report_prompts import only_here, prompts
from pscodec.metrics.summary import BITS, CODEC, format_mean, own_n, read_scores
from pscodec.utils import html
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text

# Lower is better; for all others higher is.
ARROWS = dict.fromkeys(("mcd", "mcd_linear", "wer", "cer", "dwer", "dcer"), "↓")
COLUMNS = {  # the paper's columns have the same names
    "bitrate_codes": "codes<br>bit/s",
    "bitrate_total": "all bytes<br>bit/s",
    "pesq": "PESQ",
    "stoi": "STOI",
    "visqol": "ViSQOL",
    "utmos": "UTMOS",
    "dnsmos_ovrl": "DNSMOS<br>OVRL",
    "si_snr": "SI-SNR<br>dB",
    "mcd_linear": "MCD<br>linear Mel",
    "secs": "SECS",
    "wer": "WER",
    "dwer": "dWER",
    "secs_ge2e": "SECS<br>GE2E",
    "cer": "CER",
    "dcer": "dCER",
    "mcd": "MCD<br>cepstral, dB",
    "dnsmos_sig": "DNSMOS<br>SIG",
    "dnsmos_bak": "DNSMOS<br>BAK",
    "dnsmos_p808": "DNSMOS<br>P.808",
}
KINDS = {  # what was scored: a word for its row, a sentence, and what stands in the table beside it
    "codec": (
        "codec",
        "A speech codec, scored on real files.",
        "Bit rates are counted from the bytes of the coded files: the codes alone, and everything, prompt vectors and "
        "container included. A dash: not measured. Rows below the codec's are controls: what is left when the codes or "
        "the prompt are not the utterance's own.",
    ),
    "speech": (
        "spoken from the text",
        "Speech from text and a prompt's voice.",
        "WER and CER: what a recogniser (Whisper) hears, against the text, all errors over all words. SECS: the voice "
        "against the prompt's, another utterance of the speaker. Rows below are controls: the recordings of the same "
        "texts, these as the codec returns them, and the texts in a wrong speaker's voice, where there are several.",
    ),
}
MORE = ("secs_ge2e", "cer", "dcer", "mcd", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808")  # in a table of their own
NOTES = (
    "<details><summary>How each score is computed</summary><p class='small'>PESQ: ITU-T P.862.2, wideband, 16 kHz. "
    "STOI: not extended, signals given at the codec's rate, computed at 10 kHz. ViSQOL: v3, speech mode, 16 kHz, "
    "lattice; a copy scores about 4.4. DNSMOS: P.835 (OVRL, SIG, BAK) and P.808, 16 kHz, without a reference. SI-SNR: "
    "zero mean, at the codec's rate. MCD linear Mel: 10/ln10·√2·‖mel−mel′‖ on 128 magnitude bands (n_fft 1024, "
    "window 512, hop 128), what codec papers print as MCD; it grows with the level. MCD cepstral: order 24, alpha "
    "0.466 at 24 kHz, c0 left out, no alignment, mel-cepstrum of the plain STFT. SECS: cosine of CAM++ embeddings; a "
    "codec that is conditioned on CAM++ has an advantage in it; GE2E (Resemblyzer's weights, 16 kHz) is a network that "
    "none is conditioned on. WER, CER: errors in what Whisper hears, against the text, after its normalisation, all "
    "errors over all words; what it mishears in the recordings themselves stands beside. dWER, dCER: against what it "
    "hears in the recording, where there is no text.</p></details>"
)


@one_line_errors
def main(argv=None):
    args = parse(argv)
    experiments = [load_experiment(folder) for folder in args.exp]
    paper, listening = read_paper(args.paper) if args.paper else [], report_speech.read_listening(args.listening)
    out = args.out or args.exp[0] / "report"
    titles = {c: _title(c) for c in COLUMNS}
    spoken = [e for e in experiments if e["kind"] == "speech"]
    table3 = report_speech.tables(spoken, paper, listening) if spoken else []
    paper = [] if spoken else paper
    body = [heading(experiments), *([report_speech.section(table3)] if spoken else [])]
    body += [results(experiments, paper, args), prompts(experiments, out, titles), codebooks(experiments)]
    body += [training(part, out) for experiment in experiments for part in experiment["trainings"]]
    body.append(examples(experiments, args, out))
    names = ", ".join(e["name"] for e in experiments)
    told = [report_speech.markdown(table3)] if spoken else []
    write_text(out / "results.md", "\n\n".join([*told, markdown(experiments, paper, args)]))
    write_text(out / "index.html", html.page(f"{names}: results", "\n".join(filter(None, body))))
    print(f"report: {out / 'index.html'}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, action="append", help="experiment folder; may be repeated")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data dirs (%(default)s)")
    parser.add_argument("--paper", type=Path, help="table of the paper's figures")
    parser.add_argument(
        "--paper-system", default="PSCodec-Base", help="its row to lay beside ours, or all (%(default)s)"
    )
    parser.add_argument(
        "--listening",
        action="append",
        default=[],
        metavar="[SPLIT=]FILE",
        help="what pscodec listening-results --json wrote of a MOS or SMOS test of synthesised speech, whose systems "
        "are called EXP (the folder's name), EXP.CONDITION (wrong_prompt, coded) or recording; may be repeated",
    )
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
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    model = re.search(r"^codec:\s*!new:([\w.]+)", text, re.M)
    kind = "speech" if (folder / "ar").is_dir() else "codec"
    parts = {folder.name: folder} if kind == "codec" else {f"{folder.name}.{x}": folder / x for x in ("ar", "nar")}
    trainings = [{"name": name, "curves": read_curves(part / "curves.tsv")} for name, part in parts.items()]
    steps = [s for sets in trainings[0]["curves"].values() for steps, _ in sets.values() for s in steps]
    return {
        "name": folder.name,
        "folder": folder,
        "summary": summary,
        "scores": read_scores(folder / "scores.tsv"),
        "model": model[1].rsplit(".", 1)[-1] if model else None,
        "kind": kind,
        "codes": report_speech.facts(folder) if kind == "speech" else None,
        "trainings": trainings,
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


def paper_rows(experiments, paper):
    """The paper's rows for as many codebooks as the experiments use."""
    books = {len(c[CODEC]["codebooks"]) for e in experiments for c in e["summary"].values() if CODEC in c}
    return [row for row in paper if not books - {0} or int(row["n_q"]) in books]


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
        *((("wer", "WER"), ("secs", "SECS, to the prompt")) if first["kind"] == "speech" else ()),
    ):
        if entry.get(column, {}).get("mean") is not None:
            mean = entry[column]["mean"]
            items.append((f"{mean:,.0f}" if column in BITS else f"{mean:.2f}", f"{caption} · {split}"))
    system = " · ".join(f"{e['name']}" + (f" ({e['model']})" if e["model"] else "") for e in experiments)
    return f"<h1>{escape(system)}</h1>\n<p class='soft'>{KINDS[first['kind']][1]}</p>\n{html.tiles(items)}"


def result_rows(experiments):
    """`(split, experiment, condition, entry)`, split by split, the codec first; prompts have a section of their own."""
    splits = list(dict.fromkeys(split for e in experiments for split in e["summary"]))
    for split in splits:
        for e in experiments:
            for condition, entry in sorted(e["summary"].get(split, {}).items(), key=lambda item: item[0] != CODEC):
                if not only_here(condition):
                    yield split, e, condition, entry


def results(experiments, paper, args):
    here = beside(experiments, paper, args)
    shown = columns_present(experiments, here)
    first = [c for c in shown if c not in MORE]
    more = [c for c in MORE if c in shown]
    parts = [
        "<h2>Results</h2>",
        "<p class='soft'>Mean over n utterances, or as many as stand beside it, with the half width of its 95 % "
        f"interval (Student's t). ↑ higher is better, ↓ lower. {KINDS[experiments[0]['kind']][2]}</p>",
        html.table(_header(first), _rows(experiments, first, here)),
        _failures(experiments),
    ]
    if more:
        parts.append("<h3>More scores</h3>" + html.table(_header(more), _rows(experiments, more, [])))
    if len(rest := paper_rows(experiments, paper)) > len(here):
        everyone = html.table(_header(first), [("paper", _paper_html(row, first)) for row in rest])
        parts.append(f"<details><summary>All systems in the paper's table</summary>{everyone}</details>")
    return "\n".join([*parts, NOTES])


def beside(experiments, paper, args):
    """The paper's rows that stand in the main table."""
    return [row for row in paper_rows(experiments, paper) if args.paper_system in (row["system"], "all")]


def columns_present(experiments, paper):
    entries = [entry for *_, entry in result_rows(experiments)]
    return [c for c in COLUMNS if any(c in e for e in entries) or any(row.get(c) for row in paper)]


def _header(shown):
    return ["", "n", *map(_title, shown)]


def _title(column):
    return f"{COLUMNS[column]} {'' if column in BITS else ARROWS.get(column, '↑')}"


def _rows(experiments, shown, paper):
    rows, split_now = [], None
    for split, experiment, condition, entry in result_rows(experiments):
        if not any(c in entry for c in shown):
            continue
        if split != split_now:
            rows.append(("head", [escape(split)]))
            split_now = split
        name = KINDS[experiment["kind"]][0] if condition == CODEC else words(condition)
        name = escape(label(experiment, condition) if len(experiments) > 1 else name)
        cells = [name, str(entry["utterances"]), *(_cell(entry.get(c), entry["utterances"]) for c in shown)]
        rows.append(("main" if condition == CODEC else "", cells))
    if paper:
        same = {row["testset"] for row in paper} & {split for e in experiments for split in e["summary"]}
        note = "" if same else ", on LibriTTS: other recordings and other training, not comparable with ours"
        rows.append(("head", [f"the paper{note}"]))
    return rows + [("paper", _paper_html(row, shown)) for row in paper]


def _paper_html(row, shown):
    values = dict(zip(COLUMNS, paper_cells(row), strict=True))
    name = f"{row['system']}, {row['testset'].replace('_', '-')}, {row['n_q']} codebook{'s' * (row['n_q'] != '1')}"
    return [escape(name), "-", *(values[c] for c in shown)]


def _cell(entry, utterances):
    mean, _, half = format_mean(entry).partition(" ± ")
    small = [f"± {half}"] if half and float(half) > 0 else []
    small += [own_n(entry, utterances)] if own_n(entry, utterances) else []
    return f"{mean}<small>{', '.join(small)}</small>" if small else mean


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


def markdown(experiments, paper, args):
    """The main table as Markdown."""
    here = beside(experiments, paper, args)
    shown = columns_present(experiments, here)
    names = [COLUMNS[c].replace("<br>", " ") for c in shown]
    lines = ["| split | system | n | " + " | ".join(names) + " |", "|---|---|--:|" + "--:|" * len(shown)]
    for split, experiment, condition, entry in result_rows(experiments):
        cells = [split, label(experiment, condition), str(entry["utterances"])]
        cells += [format_mean(entry.get(c), entry["utterances"]) for c in shown]
        lines.append("| " + " | ".join(cells) + " |")
    for row in here:
        values = dict(zip(COLUMNS, paper_cells(row), strict=True))
        cells = [f"LibriTTS {row['testset'].replace('_', '-')}", f"{row['system']} in the paper", "-"]
        lines.append("| " + " | ".join(cells + [values[c] for c in shown]) + " |")
    if here:
        lines += ["", "The paper's rows are of LibriTTS and of a full training: not comparable with a small corpus."]
    return "\n".join(lines) + "\n\nMean ± half width of the 95 % interval over n utterances, or as many as it says.\n"


if __name__ == "__main__":
    main()
