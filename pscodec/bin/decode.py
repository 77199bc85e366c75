"""Stage 5: every test utterance through a real file, wav -> .psc -> wav.

    python -m pscodec.bin.decode --exp exp/pscodec_base --data data --splits "test test_unseen" --controls test

Writes exp/NAME/decode/SPLIT/{psc/UTT.psc, wav/UTT.wav, wav.scp, bits.tsv}. The prompt is the utterance that the split's
utt2prompt names. A split among --controls is also decoded with its codes in random order (SPLIT.shuffled_codes) and
with the prompt of another speaker (SPLIT.wrong_prompt): what is lost shows what the codes and the prompt carry. A split
among --prompts is also decoded with the prompts that --conditions lists: from the same utterance (own_prompt), N
seconds of the normal one (prompt_Ns), of another speaker (wrong_prompt), white noise of the normal one's length and
level (noise_prompt), none at all (no_prompt: nothing is sent, zeros are added). --exp may be a released codec's name,
with --out to write elsewhere.

Entropy coded (--entropy), files need their language model to be read: it is copied beside them, as
SPLIT/entropy.safetensors, where the experiment that they are written to has it not.

Every file carries its prompt's vectors, 8 bits a number, as files between strangers would; `side_bytes` counts them.
--nj processes share the utterances on a CPU, a thread each. Started by torchrun, its processes share them, each on its
own GPU, and --nj counts for each of them.
"""

import argparse
import functools
from pathlib import Path

import numpy as np
import torch

from pscodec.commands import many
from pscodec.commands.encode import FILE_PACKET
from pscodec.data import prompts as prompting
from pscodec.data.audio import load_audio, resample, save_audio
from pscodec.data.kaldi import read_data_dir, write_table
from pscodec.data.prompts import Prompts
from pscodec.entropy.find import Languages
from pscodec.entropy.network import FILE
from pscodec.scoring import spread
from pscodec.utils import ranks
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.processes import Workers
from pscodec.utils.progress import progress

CONTROLS = ("shuffled_codes", "wrong_prompt")


class Sender:
    """What a process needs to send utterances of data dirs through files: prompts, and the codec that `settings`
    (commands/many) say."""

    def __init__(self, settings, allow_pipes=False):
        self.coder, self.allow_pipes, self._prompts = many.load(settings), allow_pipes, (None, None)
        if settings.entropy and settings.packet is None:
            self.coder.packet = FILE_PACKET

    def prompts(self, folder):
        """The `Prompts` of data dir `folder`, None for a codec without."""
        if self._prompts[0] != folder and self.coder.model.takes_prompt:
            made = Prompts(folder, self.coder.model.sees, self.coder.prompt, self.allow_pipes)
            self._prompts = folder, made
        return self._prompts[1]

    def send(self, folder, out, condition, utt, utterance):
        """Code and decode one utterance below `out`; returns its line of bits.tsv."""
        coder, model, prompts = self.coder, self.coder.model, self.prompts(folder)
        wav, rate = load_audio(utterance.path, None, utterance.start, utterance.end, model.channels)
        if not model.n_q:
            save_audio(out / "wav" / f"{utt}.wav", reconstruct(model, wav, rate), model.sample_rate)
            return f"{utt}\t{wav.shape[1] / rate:.6f}\t0\t0\t0"
        stream = coder.encode(wav, rate, prompts and prompts.of(utt, condition))
        if condition == "shuffled_codes":
            stream.codes = np.random.default_rng(0).permutation(stream.codes, axis=1)
        psc = out / "psc" / f"{utt}.psc"
        coder.write(psc, stream)
        received = coder.read(psc)
        save_audio(out / "wav" / f"{utt}.wav", coder.decode(received), coder.model.sample_rate)
        sizes = received.sizes()
        return f"{utt}\t{received.seconds:.6f}\t{sizes['codes']}\t{sizes['side']}\t{psc.stat().st_size}"


_sender = functools.lru_cache(maxsize=1)(Sender)  # this process's


def _send(task):
    how, *what = task
    return _sender(*how).send(*what)


def decode_split(how, folder, out, condition=None, max_utts=None, workers=None):
    """Send every utterance of data dir `folder` through a file below `out`; returns the number of utterances.

    `how`: arguments of `Sender`. With `max_utts`, so many of them, spread evenly. `workers`: utils.processes.Workers to
    share them. What sends nothing, an autoencoder, has no files of its own.

    Under torchrun each process sends its share, and the first one writes the tables of all. Utterances whose
    prompt has no features (stage 2 could not read it) are named and left out.
    """
    sender = _sender(*how)
    utterances, prompts = read_data_dir(folder, sender.allow_pipes), sender.prompts(folder)
    if max_utts:
        utterances = {utt: utterances[utt] for utt in spread(sorted(utterances), max_utts)}
    for utt in [utt for utt in utterances if prompts and prompts.source(utt, condition) is None]:
        print(f"left out: {utt}: its prompt {prompts.names.get(utt, '')} has no features")
        del utterances[utt]
    tasks = [(how, folder, out, condition, utt, u) for utt, u in ranks.share(list(utterances.items()))]
    lines = progress((workers or Workers()).map(_send, tasks), f"decode {out.name}", len(tasks))
    rows = {task[4]: line for task, line in zip(tasks, lines, strict=True)}
    rows = {utt: row for share in ranks.gather(rows) for utt, row in share.items()}
    if ranks.first():
        header = "utt\tseconds\tcodes_bytes\tside_bytes\ttotal_bytes"
        write_text(out / "bits.tsv", "\n".join([header, *(rows[utt] for utt in utterances)]) + "\n")
        write_table(out / "wav.scp", {utt: out / "wav" / f"{utt}.wav" for utt in utterances})
        keep_language(sender.coder.languages.chosen, out)
    return len(utterances)


def keep_language(language, out):
    """Lay the language model that coded the files in `out`, EXP/decode/SPLIT, beside them, where EXP has it not."""
    if language and all(language.fingerprint != known.fingerprint for known in Languages(out.parents[1]).all()):
        language.save(out / FILE)


@torch.inference_mode()
def reconstruct(model, wav, rate):
    """What an autoencoder makes of `wav` `[C, L]`: `[C, n]` at its own rate."""
    wav = resample(wav, rate, model.sample_rate)
    device = next(model.parameters()).device
    return model.decoder(model.encoder(model.pad(wav[None]).to(device)))[0, :, : wav.shape[1]].float().cpu()


def conditions_of(split, args, model):
    """What `split` is decoded with, None (as it should be) first; what makes no sense is left out with a word."""
    wanted = [*(CONTROLS if split in args.controls.split() else ())]
    if split in args.prompts.split():
        wanted += args.conditions.split()
    about_prompts = [name for name in wanted if prompting.describe(name)]
    useless = {}
    if about_prompts and not model.takes_prompt:
        useless = dict.fromkeys(about_prompts, "this codec takes no prompt")
    elif "wrong_prompt" in wanted and not Prompts(args.data / split, (), allow_pipes=args.allow_pipes).can_be_wrong:
        useless = {"wrong_prompt": f"{args.data / split} has one speaker only"}
    for name, why in useless.items():
        print(f"left out: {split}.{name}: {why}")
    return [None, *(name for name in dict.fromkeys(wanted) if name not in useless)]


@ranks.together
@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder, or a released codec's name")
    parser.add_argument("--out", type=Path, help="folder in which decode/ comes (default: the experiment's)")
    parser.add_argument("--data", type=Path, default="data", help="folder of the data dirs")
    parser.add_argument("--splits", default="test", help="names of data dirs, separated by spaces")
    parser.add_argument(
        "--controls", default="", help="splits to decode with shuffled codes and with wrong prompts too"
    )
    parser.add_argument("--prompts", default="", help="splits to decode with other prompts too")
    parser.add_argument("--conditions", default=" ".join(prompting.REPORTED), help="those prompts (%(default)s)")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--n-q", type=int, help="code with so many, where training has left that open")
    parser.add_argument("--entropy", help="entropy code by this language model: its folder, or auto, the codec's own")
    parser.add_argument(
        "--packet", type=float, help="seconds of a packet (1; entropy coded 5), but for codecs of chunks"
    )
    parser.add_argument("--vectors", action="store_true", help="send prompts as vectors, where the codec has tokens")
    parser.add_argument("--max-utts", type=int, help="decode at most so many utterances a split, spread evenly")
    many.add_search(parser)
    many.add_sampling(parser)
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands in wav.scp")
    parser.add_argument("--nj", type=int, default=1, help="processes on a CPU (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.nj < 1:
        raise UserError("--nj must be at least 1")
    prompting.check(args.conditions.split())
    for split in args.prompts.split():
        if split not in args.splits.split():
            raise UserError(f"--prompts names {split}, which is not among --splits ({args.splits})")

    more = {"n_q": args.n_q, "entropy": args.entropy, "packet": args.packet, "vectors": args.vectors}
    more |= {"search": args.search, "sampling": many.sampling(args)}
    settings = many.Settings(str(args.exp), args.checkpoint, args.device, "fp32", True, **more)
    how = settings, args.allow_pipes
    _sender.cache_clear()  # of an experiment that has been trained on since
    coder = _sender(*how).coder
    out = (args.out or args.exp) / "decode"
    print(f"decoding with the {args.checkpoint} checkpoint of {args.exp}: step {coder.meta.get('step')}")
    nj = args.nj if args.device == "cpu" else 1
    if nj > 1:
        torch.set_num_threads(1)  # what is few is done here, beside the others: threads that wait for a busy core spin
    with Workers(nj) as workers:
        for split in args.splits.split():
            for condition in conditions_of(split, args, coder.model):
                name = f"{split}.{condition}" if condition else split
                count = decode_split(how, args.data / split, out / name, condition, args.max_utts, workers)
                print(f"{out / name}: {count} utterances")


if __name__ == "__main__":
    main()
