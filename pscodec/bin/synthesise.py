"""Stage 5 of speech synthesis: a list of sentences, or one, becomes speech.

    python -m pscodec.bin.synthesise --exp exp/NAME --data data --splits test
    python -m pscodec.bin.synthesise --exp exp/NAME --text "A sentence." --prompt alice.wav --out sentence.wav

Of a split, each utterance's text is spoken by the voice of the utterance that utt2prompt names, into
exp/NAME/decode/SPLIT/wav, and, where there are several speakers, by a wrong one's (SPLIT.wrong_prompt). Beside it lie
the recordings themselves (SPLIT.recording) and as the codec returns them (SPLIT.coded); SPLIT/prompts.scp names the
prompts, for listening tests of similarity. What is there stays, unless the options have changed. Every utterance has a
seed of its own, so that the same list gives the same speech. One whose text has a symbol that training did not have is
left out everywhere, with a line.
"""

import argparse
import json
import zlib
from dataclasses import asdict
from pathlib import Path

import torch

from pscodec.data.audio import load_audio, save_audio
from pscodec.data.kaldi import read_data_dir, write_table
from pscodec.data.prompts import Prompts
from pscodec.downstream.sampling import Sampling
from pscodec.synthesis import LONGEST, load_synthesiser
from pscodec.utils import ranks
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

SAMPLING = {
    "temperature": "of the draws; 0: the likeliest code",
    "top_p": "share of the likeliest codes that is drawn from",
    "window": "codes among which a repeated one is drawn anew",
    "repeated": "share of them that counts as repeated",
    "candidates": "drawn, of which the likeliest is taken",
}
RECORDING, CODED, WRONG = "recording", "coded", "wrong_prompt"  # beside what is synthesised


@ranks.together
@one_line_errors
def main(argv=None):
    args = parse(argv)
    sampling = Sampling(**{name: getattr(args, name) for name in SAMPLING})
    synthesiser = load_synthesiser(args.exp, args.checkpoint, args.device, args.codec, args.continue_prompt)
    if args.text is not None:
        voice = synthesiser.hear(args.prompt, args.prompt_text)
        spoken = synthesiser(args.text, voice, sampling, args.seed, args.longest)
        save_audio(args.out, spoken.wav, synthesiser.sample_rate)
        print(f"{args.out}: {spoken.wav.shape[1] / synthesiser.sample_rate:.2f} s, {spoken.worth:.2f} nats a code")
        tell_unended([args.out.name] * (not spoken.ended), 1, args.longest)
        return
    for split in args.splits.split():
        folder = args.data / split
        made = {"step": synthesiser.meta.get("step"), "seed": args.seed, "longest": args.longest, **asdict(sampling)}
        made |= {"continue_prompt": synthesiser.continue_prompt}
        utts = speakable(synthesiser, folder)
        for condition in conditions(folder):
            out = args.exp / "decode" / (f"{split}.{condition}" if condition else split)
            as_options = {} if condition in (RECORDING, CODED) else made
            make(synthesiser, folder, utts, condition, out, sampling, args, as_options)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder, with ar/ and perhaps nar/ in it")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data dirs (%(default)s)")
    parser.add_argument("--splits", default="test", help="names of data dirs, separated by spaces (%(default)s)")
    parser.add_argument("--text", help="one sentence instead, with --prompt and --out")
    parser.add_argument("--prompt", type=Path, help="a recording of the voice")
    parser.add_argument("--prompt-text", help="what is said in it")
    parser.add_argument("--out", type=Path, default=Path("spoken.wav"), help="file to write (%(default)s)")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--codec", help="where the codec is now (where training had it)")
    parser.add_argument(
        "--continue-prompt", choices=("true", "false"), help="go on from the prompt's codes (as in the configuration)"
    )
    for name, words in SAMPLING.items():
        default = getattr(Sampling, name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help=f"{words} (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=LONGEST, help="seconds a sentence may become (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.text is not None and args.prompt is None:
        raise UserError("--text needs --prompt, a recording of the voice")
    if not 0 < args.top_p <= 1 or args.candidates < 1 or args.longest <= 0:
        raise UserError("--top-p is above 0 and at most 1, --candidates at least 1, --longest above 0")
    args.continue_prompt = {"true": True, "false": False, None: None}[args.continue_prompt]
    return args


def conditions(folder):
    """None, as it should be, first."""
    wrong = [WRONG] if Prompts(folder, ()).can_be_wrong else []
    return [None, *wrong, RECORDING, CODED]


def speakable(synthesiser, folder):
    """Utterances of data dir `folder` whose text, and that of their prompts where codes go on from it, has units. The
    others are left out of all conditions, each with a line. Raises UserError where none is left."""
    utterances, prompts, left_out = read_data_dir(folder), Prompts(folder, ()), {}
    for utt, u in utterances.items():
        texts = [u.text]
        if synthesiser.continue_prompt:
            wrong = [WRONG] if prompts.can_be_wrong else []
            texts += [utterances[prompts.source(utt, condition)].text for condition in (None, *wrong)]
        try:
            for text in texts:
                synthesiser.units(text or "")
        except UserError as error:
            left_out[utt] = error
    if len(left_out) == len(utterances):
        raise UserError(f"{folder}: no utterance can be spoken: {next(iter(left_out.values()))}")
    for utt, why in left_out.items() if ranks.first() else ():
        print(f"left out: {utt}: {why}")
    return [utt for utt in utterances if utt not in left_out]


def make(synthesiser, folder, utts, condition, out, sampling, args, made):
    """The utterances `utts` of data dir `folder` in a condition, into `out`; `made`: what must be the same to keep what
    is there."""
    utterances, prompts = read_data_dir(folder), Prompts(folder, ())
    made = {**made, "codec": synthesiser.coder.fingerprint.hex()}
    note = out / "made.json"
    if ranks.first():
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != made:
            for old in out.glob("*/*.*"):
                old.unlink()
        write_text(note, json.dumps(made) + "\n")
    unended = []
    for utt in progress(ranks.share(utts), f"speak {out.name}"):
        wav, told = out / "wav" / f"{utt}.wav", out / "told" / f"{utt}.json"
        if not told.is_file():
            found = say(synthesiser, utterances, prompts, utt, condition, sampling, args)
            save_audio(wav, found.pop("wav"), synthesiser.sample_rate)
            write_text(told, json.dumps(found) + "\n")
        if not json.loads(told.read_text(encoding="utf-8")).get("ended", True):
            unended.append(utt)
    unended = [utt for share in ranks.gather(unended) for utt in share]
    if ranks.first():
        write_table(out / "wav.scp", {utt: out / "wav" / f"{utt}.wav" for utt in utts})
        if condition is None:
            heard = {utt: utterances[prompts.source(utt)] for utt in utts}
            write_table(out / "prompts.scp", {utt: u.path for utt, u in heard.items() if not u.start and u.end is None})
        print(f"{out}: {len(utts)} utterances")
        tell_unended(unended, len(utts), args.longest)


def say(synthesiser, utterances, prompts, utt, condition, sampling, args):
    """`wav`, and what is noted of it."""
    u, name = utterances[utt], prompts.source(utt, condition if condition == WRONG else None)
    recording, prompt = (load_audio(x.path, None, x.start, x.end) for x in (u, utterances[name]))
    rate, coder = synthesiser.sample_rate, synthesiser.coder
    if condition == RECORDING:
        return {"prompt": name, "wav": load_audio(u.path, rate, u.start, u.end)[0]}
    if condition == CODED:
        return {"prompt": name, "wav": coder.decode(coder.encode(*recording, prompt))}
    voice = synthesiser.hear(prompt, utterances[name].text)
    spoken = synthesiser(u.text, voice, sampling, zlib.crc32(f"{args.seed} {utt}".encode()), args.longest)
    codes = spoken.codes.shape[1]
    return {"prompt": name, "ended": spoken.ended, "worth": spoken.worth, "frames": codes, "wav": spoken.wav}


def tell_unended(names, total, longest):
    if names:
        print(f"warning: the end token never came in {longest:g} s: {len(names)} of {total}: {' '.join(names[:8])}")


if __name__ == "__main__":
    main()
