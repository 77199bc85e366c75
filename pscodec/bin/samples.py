"""A page of samples: recordings beside what codecs make of them, to hear and to see.

    python -m pscodec.bin.samples --data data/test --codec pscodec_small_24k_v2:1 opus:6 codec2:3200 --out docs/samples

Utterances are spread evenly over the data dir, so that none are chosen; each is its own prompt. Writes OUT/index.html,
what it plays (Ogg Vorbis, far above the rates that are compared) and spectrograms in two themes. `--codec` takes the
names that `pscodec score --codec` takes.
"""

import argparse
from html import escape
from pathlib import Path

import soundfile
import torch

from pscodec.bin.report_figures import level
from pscodec.coders import NAMES, open_coder
from pscodec.data.audio import load_audio, resample
from pscodec.data.kaldi import read_data_dir
from pscodec.scoring import spread
from pscodec.utils import html, plot
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import atomic_path, write_text
from pscodec.utils.progress import progress

RATE = 24000  # of all that is played and drawn, Hz
QUALITY = 0.7  # of Ogg Vorbis, some 80 kbit/s


def sample(utterance, codecs, out):
    """The card of an utterance, HTML; writes its files."""
    wav, rate = load_audio(utterance.path, None, utterance.start, utterance.end)
    tracks = [("recording", wav, rate)]
    for name, code in codecs.items():
        heard, its_rate, rates = code(wav, rate)
        tracks.append((f"{name}, {rates['bitrate_total'] / 1000:.2f} kbit/s in all", heard, its_rate))
    players, levels = [], []
    for i, (title, heard, its_rate) in enumerate(tracks):
        heard = resample(heard, its_rate, RATE)[:, : round(utterance.duration * RATE)].clamp(-1, 1)
        path = f"{utterance.utt}.{i}.ogg"
        with atomic_path(out / path) as partial:
            soundfile.write(
                partial, heard[0].numpy(), RATE, format="OGG", subtype="VORBIS", compression_level=1 - QUALITY
            )
        players.append((path, title))
        levels.append(level(heard[0], RATE))
    for theme in plot.THEMES:
        titles = [title for title, *_ in tracks]
        plot.spectrograms(out / f"{utterance.utt}.{theme}.webp", levels, titles, RATE, 240, theme)
    stem = utterance.utt
    figure = html.picture(f"{stem}.light.webp", f"{stem}.dark.webp", f"spectrograms of {stem}", "spectrogram")
    text = f"<p>{escape(utterance.text)}</p>" if utterance.text else ""
    head = f"<b>{escape(stem)}</b> <span class='soft small'>{utterance.duration:.1f} s</span>"
    return f"<div class='card'>{head}{text}{html.players(players)}{figure}</div>"


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data dir")
    parser.add_argument("--codec", nargs="+", required=True, metavar="NAME", help=NAMES)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the page")
    parser.add_argument("--count", type=int, default=4, help="utterances (4)")
    parser.add_argument("--title", default="Samples", help="of the page")
    parser.add_argument("--note", default="", help="a line below it: whose recordings they are")
    args = parser.parse_args(argv)
    if args.count < 1:
        raise UserError(f"--count {args.count}: at least one utterance")
    utterances = spread(sorted(read_data_dir(args.data).values(), key=lambda u: u.utt), args.count)
    codecs = {name: open_coder(name) for name in args.codec}
    args.out.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        cards = [sample(u, codecs, args.out) for u in progress(utterances, "samples")]
    body = [f"<h1>{escape(args.title)}</h1>", f"<p class='soft'>{escape(args.note)}</p>" if args.note else ""]
    body.append("<p class='soft'>Bit rates are of whole files. One colour scale for all spectrograms of a card.</p>")
    write_text(args.out / "index.html", html.page(args.title, "\n".join(body + cards)))
    print(f"{args.out / 'index.html'}: {len(cards)} utterances, {len(codecs)} codecs")


if __name__ == "__main__":
    main()
