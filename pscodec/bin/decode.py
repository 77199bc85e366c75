"""Stage 5: every test utterance through a real file, wav -> .psc -> wav.

    python -m pscodec.bin.decode --exp exp/pscodec_base --data data --splits "test test_unseen" --controls test

Writes exp/NAME/decode/SPLIT/{psc/UTT.psc, wav/UTT.wav, wav.scp, bits.tsv}. The prompt is the utterance that the split's
utt2prompt names. A split among --controls is also decoded with its codes in random order (SPLIT.shuffled_codes) and
with the prompt of another speaker (SPLIT.wrong_prompt): what is lost shows what the codes and the prompt carry.

Every file carries its prompt's vectors, 8 bits a number, as files between strangers would; `side_bytes` counts them.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from pscodec import bitstream
from pscodec.data.audio import load_audio, save_audio
from pscodec.data.kaldi import load_matrices, read_data_dir, read_table, write_table
from pscodec.inference import load_codec
from pscodec.types import Prompt
from pscodec.utils.errors import one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.progress import progress

CONTROLS = ("shuffled_codes", "wrong_prompt")


class Prompts:
    """The prompt of each utterance of data dir `folder`, from the features of stage 2."""

    def __init__(self, folder):
        self.names = read_table(folder / "utt2prompt")
        self.speakers = read_table(folder / "utt2spk")
        self.mels = load_matrices(folder / "mel.scp")
        # CAM++'s vectors of the whole utterances were computed in stage 2
        self.xvectors = load_matrices(folder / "xvector.scp") if (folder / "xvector.scp").exists() else None
        self.fbanks = load_matrices(folder / "fbank.scp")

    def of(self, utt):
        mel = _tensor(self.mels[utt].T)
        if self.xvectors is not None:
            return Prompt(mel=mel, voiceprint=_tensor(self.xvectors[utt]))
        return Prompt(mel=mel, fbank=_tensor(self.fbanks[utt].T))

    @property
    def can_be_wrong(self):
        return len(set(self.speakers.values())) > 1

    def right(self, utt):
        return self.of(self.names[utt])

    def wrong(self, utt):
        """Of another speaker (ask `can_be_wrong` first): the next one's utterance of the same number."""
        speakers = sorted(set(self.speakers.values()))
        other = speakers[(speakers.index(self.speakers[utt]) + 1) % len(speakers)]
        theirs = sorted(u for u, s in self.speakers.items() if s == other and u in self.mels)
        mine = sorted(u for u, s in self.speakers.items() if s == self.speakers[utt])
        return self.of(theirs[mine.index(utt) % len(theirs)])


def _tensor(array):
    return torch.from_numpy(np.array(array, dtype=np.float32))[None]


def decode_split(coder, folder, out, control=None, allow_pipes=False):
    """Send every utterance of data dir `folder` through a file below `out`; returns the number of utterances.

    Those whose prompt has no features (stage 2 could not read it) are named and left out.
    """
    prompts, utterances = Prompts(folder), read_data_dir(folder, allow_pipes)
    mute = [utt for utt in utterances if prompts.names.get(utt) not in prompts.mels]
    for utt in mute:
        print(f"left out: {utt}: its prompt {prompts.names.get(utt, '')} has no features")
        del utterances[utt]
    rows, wavs = ["utt\tseconds\tcodes_bytes\tside_bytes\ttotal_bytes"], {}
    for utt, utterance in progress(utterances.items(), f"decode {out.name}"):
        wav, rate = load_audio(utterance.path, None, utterance.start, utterance.end)
        prompt = prompts.wrong(utt) if control == "wrong_prompt" else prompts.right(utt)
        stream = coder.encode(wav, rate, prompt)
        if control == "shuffled_codes":
            stream.codes = np.random.default_rng(0).permutation(stream.codes, axis=1)
        psc, target = out / "psc" / f"{utt}.psc", out / "wav" / f"{utt}.wav"
        bitstream.write(psc, stream)
        received = bitstream.read(psc)
        save_audio(target, coder.decode(received), coder.model.sample_rate)
        sizes = received.sizes()
        rows.append(f"{utt}\t{received.seconds:.6f}\t{sizes['codes']}\t{sizes['side']}\t{psc.stat().st_size}")
        wavs[utt] = str(target)
    write_text(out / "bits.tsv", "\n".join(rows) + "\n")
    write_table(out / "wav.scp", wavs)
    return len(wavs)


@one_line_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder")
    parser.add_argument("--data", type=Path, default="data", help="folder of the data dirs")
    parser.add_argument("--splits", default="test", help="names of data dirs, separated by spaces")
    parser.add_argument(
        "--controls", default="", help="splits to decode with shuffled codes and with wrong prompts too"
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands in wav.scp")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)

    coder = load_codec(args.exp, args.checkpoint, args.device)
    print(f"decoding with the {args.checkpoint} checkpoint of {args.exp}: step {coder.meta.get('step')}")
    for split in args.splits.split():
        for control in (None, *CONTROLS) if split in args.controls.split() else (None,):
            name = f"{split}.{control}" if control else split
            if control == "wrong_prompt" and not Prompts(args.data / split).can_be_wrong:
                print(f"left out: {name}: {args.data / split} has one speaker only")
                continue
            count = decode_split(coder, args.data / split, args.exp / "decode" / name, control, args.allow_pipes)
            print(f"{args.exp}/decode/{name}: {count} utterances")


if __name__ == "__main__":
    main()
