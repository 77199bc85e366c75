"""Figures and audio of the report (stage 7): training curves, spectrograms, players."""

import json
import re
from html import escape

import numpy as np
import torch

from pscodec.data.audio import load_audio, save_audio
from pscodec.data.kaldi import read_data_dir
from pscodec.data.prompts import describe
from pscodec.features import stft
from pscodec.metrics.summary import CODEC, REFERENCE
from pscodec.utils import html, plot
from pscodec.utils.progress import progress

ORDER = ("total", "wav", "mel", "feat", "quant", "adv", "disc", "usage", "perplexity", "lr")  # of the curves
RANKED = {"stoi": "STOI", "si_snr": "SI-SNR", "pesq": "PESQ", "wer": "WER"}  # what examples are chosen by
SHOWN_SECONDS = 4.0  # of each spectrogram
CONDITIONS = {
    CODEC: "codec",
    REFERENCE: "the recordings, uncoded",
    "shuffled_codes": "codes shuffled",
    "recording": "the recordings",
    "coded": "the recordings, coded",
}


def words(condition):
    return CONDITIONS.get(condition) or describe(condition) or condition.replace("_", " ")


def label(experiment, condition):
    return experiment["name"] if condition == CODEC else f"{experiment['name']}: {words(condition)}"


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
    """`count` utterances at even steps from the lowest to the highest of a score, so that none are chosen."""
    key = next((k for k in RANKED if any(k in row for row in rows)), None)
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
    by = next((RANKED[key] for key in RANKED if any(key in row for _, row in todo)), "name")
    parts.append(
        f"<p class='soft'>At even steps from the lowest to the highest {by} of each split. Spectrograms: one colour "
        f"scale for both, 80 dB, the first {SHOWN_SECONDS:g} seconds.</p>"
    )
    for split, row in progress(todo, "figures and audio"):
        if split != split_now:
            parts.append(f"<h3>{escape(split)}</h3>")
            split_now = split
        parts.append(example(split, row, experiments, args, out))
    return "\n".join(parts) if todo else ""


def example(split, row, experiments, args, out):
    utt = row["utt"]
    safe = re.sub(r"[^\w.-]", "_", f"{split}.{utt}")
    decoded = []
    for e in experiments:
        for folder in sorted((e["folder"] / "decode").glob(f"{split}*")):
            condition = folder.name[len(split) + 1 :] or CODEC
            path = folder / "wav" / f"{utt}.wav"
            same = condition == "recording"  # it is the reference
            if folder.name.split(".")[0] == split and path.is_file() and not same:
                decoded.append((label(e, condition), condition, path))
    decoded.sort(key=lambda item: item[1] != CODEC)
    if not decoded:
        return ""
    utterances = read_data_dir(args.data / split, allow_pipes=args.allow_pipes)
    utterance = utterances[utt]
    wavs = [load_audio(path) for _, _, path in decoded]
    rate = wavs[0][1]
    ref, _ = load_audio(utterance.path, rate, utterance.start, utterance.end)
    items, titles, levels = [], [], []
    tracks = [("reference", REFERENCE, ref)]
    if (told := experiments[0]["folder"] / "decode" / split / "told" / f"{utt}.json").is_file():  # what was synthesised
        prompt = utterances[json.loads(told.read_text(encoding="utf-8"))["prompt"]]
        heard = load_audio(prompt.path, rate, prompt.start, prompt.end)[0]
        tracks = [("the prompt", "prompt", heard), ("a recording of the text", REFERENCE, ref)]
    if len(experiments) == 1:
        decoded = [(words(condition), condition, path) for _, condition, path in decoded]
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
    scores = ", ".join(f"{n} {row[k]:.2f}" for k, n in (("stoi", "STOI"), ("pesq", "PESQ"), ("wer", "WER")) if k in row)
    stem = f"figures/{safe}"
    figure = html.picture(f"{stem}.light.png", f"{stem}.dark.png", f"spectrograms of {utt}", "spectrogram")
    caption = f"<b>{escape(utt)}</b> <span class='soft small'>{row['seconds']:.1f} s · {escape(scores)}</span>"
    text = f"<p>{escape(utterance.text)}</p>" if utterance.text else ""
    return f"<div class='card'>{caption}{text}{html.players(items)}{figure}</div>"


def level(wav, sample_rate):
    """dB spectrogram `[513, F]` of `wav` `[L]`: 1024 points, hop 240, of its first seconds."""
    wav = wav[: int(SHOWN_SECONDS * sample_rate)]
    wav = torch.nn.functional.pad(wav, (0, max(0, 1024 - len(wav))))
    magnitude = stft(wav, 1024, 240).abs().numpy()
    return 20 * np.log10(np.maximum(magnitude, 1e-5))
