"""Stage 5 of separation: every mixture of the test splits into its sources.

    python -m pscodec.bin.separate --exp exp/NAME --data data --splits test --prompt "none estimate" --output masked

Writes exp/NAME/separated/SPLIT.CONDITION/UTT.s1.wav, UTT.s2.wav ... at the mixtures' sampling rate, and done.json.
Estimates made in embeddings stand in the order in which those are nearest to the sources' embeddings.
A condition says how embeddings became speech: PROMPT_continuous, PROMPT_quantised (through the codebooks) or
PROMPT_masked (the mixture, masked by the first, which keeps its phases); for a
separator of waveforms there is one, `waveform`. PROMPT, for codecs whose decoder wants the speaker's prompt, which is
not known of a separated voice: `none` leaves it out, `estimate` decodes once without and takes the prompt from that,
`enrol` takes it from a known utterance of the speaker (utt2prompt of the clean data dir); which talker an estimate
is, is told by the nearest of the enrolled prompt vectors. With --ceiling true the clean sources are coded and decoded
too, without any mixing (ceiling_PROMPT_...): what the codec alone costs. Processes of torchrun share the mixtures.
"""

import argparse
import json
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment

from pscodec.bin.evaluate_separation import CEILING
from pscodec.data.audio import load_audio, save_audio
from pscodec.data.kaldi import read_data_dir, read_table
from pscodec.data.mixture import MixtureDataset
from pscodec.losses.separation import EmbeddingLoss, ordered
from pscodec.separation import load_separator
from pscodec.types import Separation
from pscodec.utils import ranks
from pscodec.utils.errors import UserError, one_line_errors
from pscodec.utils.files import write_text
from pscodec.utils.macs import count_macs
from pscodec.utils.progress import progress

PROMPTS = ("none", "estimate", "enrol")
OUTPUTS = ("continuous", "quantised", "masked")


@ranks.together
@one_line_errors
def main(argv=None):
    args = parse(argv)
    experiment = Experiment(args.exp, args.checkpoint, args.device, args.codec)
    print(f"separating with the {args.checkpoint} checkpoint of {args.exp}: step {experiment.meta.get('step')}")
    if ranks.first():
        write_text(args.exp / "cost.json", json.dumps(experiment.cost(), indent=1) + "\n")
    ways = experiment.ways(args.prompt.split(), args.output.split())
    for split in args.splits.split():
        dataset = MixtureDataset(args.data / split, experiment.sample_rate)
        conditions = separate_split(experiment, dataset, args.exp / "separated", split, ways, args.ceiling == "true")
        print(f"{args.exp}/separated/{split}: {len(dataset)} mixtures, {' '.join(conditions)}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder of a separator")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data dirs (%(default)s)")
    parser.add_argument("--splits", default="test", help="names of folders of mixtures (%(default)s)")
    parser.add_argument("--prompt", default="estimate", help="some of: none estimate enrol (%(default)s)")
    parser.add_argument("--output", default="continuous", help="some of: continuous quantised masked (%(default)s)")
    parser.add_argument("--ceiling", choices=("true", "false"), default="false", help="code the clean sources too")
    parser.add_argument("--codec", type=Path, help="the codec's experiment, where it has moved")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    for words, allowed, option in ((args.prompt, PROMPTS, "prompt"), (args.output, OUTPUTS, "output")):
        if not words.split() or set(words.split()) - set(allowed):
            raise UserError(f"--{option} takes some of: {' '.join(allowed)}; not {words!r}")
    return args


class Experiment:
    """The separator of an experiment (`unmixer`, see pscodec.separation) and the conditions that it is scored in."""

    def __init__(self, exp, which="best", device="cpu", codec=None):
        self.unmixer = load_separator(exp, which, device, codec)
        self.meta, self.sample_rate, self.device = self.unmixer.meta, self.unmixer.sample_rate, device
        self.system, self.coder, self.frozen = self.unmixer.system, self.unmixer.coder, self.unmixer.frozen
        self.in_embedding = self.unmixer.in_embedding

    def ways(self, prompts, outputs):
        """What of the asked makes sense, `(prompts, outputs)`; None for a separator of waveforms."""
        if not self.in_embedding:
            return None
        if not self.coder.model.takes_prompt:
            prompts = ["none"]
        return prompts, outputs

    def embed(self, item):
        """`z_hat` and the sources' own `z` `[1, S, D, T]`, and the level `[1, 1, 1]`, of a dataset's item.

        The estimates stand in the order in which they are nearest to the sources, as the embedding loss has it.
        """
        mix, sources = item["mix"][None].to(self.device), item["sources"][None].to(self.device)
        z_mix, z_sources, frames = self.frozen.embed(mix, sources)
        z_hat = self.system.separator(z_mix)
        _, order = EmbeddingLoss()(Separation(z_hat, z_sources, frames))
        return ordered(z_hat, order), z_sources, self.frozen.scale(mix)

    def separate(self, item):
        """`[S, L]`, by a separator of waveforms."""
        batch = {k: item[k][None].to(self.device) for k in ("mix", "sources")}
        return self.system({**batch, "lengths": torch.tensor([item["length"]], device=self.device)}).estimates[0]

    def side(self, wavs, sample_rate):
        """The codec's side information of speech `[S, L]`."""
        prompts = [self.coder.prompt(wav[None].cpu(), sample_rate).to(self.device) for wav in wavs]
        return stack([self.coder.model.side(prompt) for prompt in prompts])

    def cost(self):
        """MACs of each part for 2 s of one signal, as in Table IV of the paper: `{part: {total, attention, plain}}`.

        The decoder's, and the refiner's of its masks, are of one source. Resampling is left out.
        """
        mix = torch.zeros(1, 1, 2 * self.sample_rate, device=self.device)
        if not self.in_embedding:
            return {"separator": vars(count_macs(self.system.separator, mix))}
        z, _, _ = self.frozen.embed(mix)
        codec = self.frozen.codec
        cost = {
            "encoder": vars(count_macs(codec.encoder, codec.pad(self.frozen.up(mix)))),
            "separator": vars(count_macs(self.system.separator, z)),
            "decoder": vars(count_macs(codec.synthesise, z, {})),
        }
        if self.system.refiner is not None:
            cost["refiner"] = vars(count_macs(self.unmixer.masks(1.0).push, mix[0].cpu(), mix[0].cpu(), True))
        return cost


def stack(sides):
    """Side information of several utterances as one batch."""
    return {name: torch.cat([side[name] for side in sides]) for name in sides[0]}


@torch.inference_mode()
def separate_split(experiment, dataset, out, split, ways, ceiling):
    """Separate every mixture in all `ways` and write the estimates below `out`; returns the conditions' names."""
    enrolled = Enrolled(experiment, dataset) if ways and "enrol" in ways[0] else None
    names = set()
    for index in progress(ranks.share(range(len(dataset))), f"separate {split}"):
        item = dataset[index]
        sources = [source.utt for source in dataset.mixtures[index].sources]
        for name, wavs in estimates(experiment, item, sources, ways, enrolled, ceiling):
            names.add(name)
            for s, wav in enumerate(wavs, 1):
                save_audio(out / f"{split}.{name}" / f"{item['utt']}.s{s}.wav", wav, experiment.sample_rate)
    names = sorted(set().union(*ranks.gather(names)))
    for name in names if ranks.first() else []:
        note = {"step": experiment.meta.get("step"), "sample_rate": experiment.sample_rate, "mixtures": len(dataset)}
        note["ordered"] = experiment.in_embedding
        write_text(out / f"{split}.{name}" / "done.json", json.dumps(note) + "\n")
    return names


def estimates(experiment, item, sources, ways, enrolled, ceiling):
    """Yield `(condition, [S, L])` of one mixture, whose sources are the utterances `sources`."""
    if ways is None:
        yield "waveform", experiment.separate(item)
        return
    prompts, outputs = ways
    z_hat, z_sources, scale = experiment.embed(item)
    for prefix, z in (("", z_hat), (CEILING, z_sources))[: 1 + ceiling]:
        for quantised in (False, True):
            wanted = [output for output in outputs if (output == "quantised") == quantised]
            if not wanted:
                continue
            how = (item["length"], scale, quantised)
            plain = experiment.frozen.decode(z, {}, *how)[0]
            estimated = experiment.side(plain, experiment.sample_rate) if set(prompts) != {"none"} else {}
            for prompt in prompts:
                side = estimated
                if prompt == "enrol":
                    known = stack([enrolled[utt] for utt in sources])
                    side = known if prefix else nearest(estimated, known)
                wavs = plain if prompt == "none" else experiment.frozen.decode(z, side, *how)[0]
                for output in wanted:
                    heard = wavs
                    if output == "masked":
                        masks = experiment.unmixer.masks(item["mix"].abs().max().item())
                        heard = masks.push(item["mix"], wavs.cpu(), last=True)
                    yield f"{prefix}{prompt}_{output}", heard


class Enrolled:
    """Side information of the utterance that the clean data dir's utt2prompt names, for each of its utterances."""

    def __init__(self, experiment, dataset):
        self.experiment, self.utterances = experiment, read_data_dir(dataset.clean)
        self.prompts, self.known = read_table(Path(dataset.clean) / "utt2prompt"), {}

    def __getitem__(self, utt):
        prompt = self.prompts.get(utt)
        if prompt not in self.utterances:
            raise UserError(f"utt2prompt names no utterance for {utt}")
        if prompt not in self.known:
            u = self.utterances[prompt]
            wav, rate = load_audio(u.path, None, u.start, u.end)
            self.known[prompt] = self.experiment.side(wav, rate)
        return self.known[prompt]


def nearest(estimated, known):
    """Of `known` side information `[S, D, 1]` the one for each estimate, so that the sum of cosines is largest."""
    likeness = 0
    for name in known:
        a, b = (torch.nn.functional.normalize(side[name].flatten(1).float(), dim=1) for side in (estimated, known))
        likeness = likeness + a @ b.T
    order = torch.from_numpy(linear_sum_assignment(likeness.cpu().numpy(), maximize=True)[1])
    return {name: side[order.to(side.device)] for name, side in known.items()}


if __name__ == "__main__":
    main()
