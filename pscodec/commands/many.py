"""One file, folders, globs: what a subcommand is asked to make of what, and how that is done, in several processes."""

import concurrent.futures
import functools
import glob
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from pscodec import released
from pscodec.pipes import PIPE
from pscodec.utils.errors import UserError
from pscodec.utils.progress import progress


@dataclass(frozen=True)
class Settings:
    """What every process needs to know: which codec and how; of whom (a path, or each recording its `own` prompt, or
    none); `raw`, the rate of samples without a header (encode) or whether to write such (decode); the codebooks to
    code with (None: all); `entropy`: the language model, and `packet`, the seconds of a packet, where chosen;
    `waited_for`: whether what is coded goes on at once, through a pipe; `vectors`: prompts are not sent as tokens;
    `search`: steps in which codes are searched. For separators: where their `codec` has moved, and whether what it has
    `decoded` is asked for. `sampling`: pairs, of how a codec is to generate (add_sampling)."""

    exp: str
    which: str
    device: str
    precision: str
    force: bool
    prompt: str | None = None
    own: bool = True
    profiles: tuple = ()
    raw: int = 0
    n_q: int | None = None
    entropy: str | None = None
    packet: float | None = None
    waited_for: bool = False
    vectors: bool = False
    search: int = 0
    codec: str | None = None
    decoded: bool = False
    sampling: tuple = ()


def settings(args, **more):
    """The `Settings` that the options of `add_codec` and `add_inputs` make."""
    return Settings(args.exp, args.checkpoint, args.device, args.precision, args.force, **more)


def add_inputs(parser, what):
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=f"{what}, folders of them, globs, or - for a pipe")
    parser.add_argument("-o", "--output", help="a file, a folder for several, or -; default: beside the input")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")


def add_codec(parser):
    given = released.DEFAULT if released.DEFAULT in released.names() else None
    parser.add_argument("--exp", default=given, required=given is None, help="experiment folder with the trained codec")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    add_precision(parser, default="auto")


def add_precision(parser, **options):
    told = "auto: bf16 where the machine computes it natively; elsewhere bf16 works too, many times slower"
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), help=told, **options)


def add_search(parser):
    told = "look for better codes than the encoder's, in so many (search.Search): 10 are a good number, 0 none"
    parser.add_argument("--search", type=int, default=0, metavar="STEPS", help=told)


def add_sampling(parser):
    """The options of codecs that generate what they decode; `sampling(args)` has those that were given."""
    group = parser.add_argument_group("of codecs that generate what they decode (LaDiffCodec)")
    group.add_argument("--sampler", help="midway (infilling; the paper's), ddpm, ddim, dpm (DPM-Solver++)")
    group.add_argument("--steps", type=int, help="midway, ddpm: all from tau; ddim: 50; dpm: 15")
    group.add_argument("--tau", type=int, help="step of the schedule to begin at; midway: 100, else the last")
    group.add_argument("--gamma", type=float, help="share of the infilling branch, 0 to 1 (0.3)")
    group.add_argument("--seed", type=int, help="another one, another sample (0)")


def sampling(args):
    names = ("sampler", "steps", "tau", "gamma", "seed")
    return tuple((name, getattr(args, name)) for name in names if getattr(args, name) is not None)


def add_jobs(parser):
    parser.add_argument("--jobs", type=int, default=1, help="processes for many files")


def tasks(inputs, output, suffixes, new):
    """Pairs (source, target), strings, and lines that say what cannot be done.

    Inputs are files, folders (files below with one of `suffixes`) and glob patterns; the last of two may be the
    output if it has the `new` suffix. A folder's files keep their places below `output`.
    """
    if output is None and len(inputs) == 2 and (inputs[1].endswith(new) or inputs == [PIPE, PIPE]):
        inputs, output = inputs[:1], inputs[1]
    found, wrong = [], []
    for name in inputs:
        path = Path(name)
        if name == PIPE or path.is_file():
            found.append((name, Path(path.name)))
        elif path.is_dir():
            below = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in suffixes and p.is_file()]
            found += [(str(p), p.relative_to(path)) for p in below]
            if not below:
                wrong.append(f"{name}: a folder without {' '.join(sorted(suffixes))}")
        else:
            below = sorted(p for p in glob.glob(name, recursive=True) if os.path.isfile(p))
            found += [(p, Path(os.path.basename(p))) for p in below]
            if not below:
                wrong.append(f"{name}: no such file")
    single = len(found) == 1 and len(inputs) == 1 and not Path(inputs[0]).is_dir()
    pairs, taken = [], {}
    for source, place in found:
        if output is None:
            target = PIPE if source == PIPE else str(Path(source).with_suffix(new))
        elif output == PIPE or (single and not os.path.isdir(output) and not output.endswith(os.sep)):
            target = output
        else:
            target = str(Path(output) / place.with_suffix(new))
        if target in taken:
            wrong.append(f"{source}: {target} is made of {taken[target]} already")
            continue
        taken[target] = source
        pairs.append((source, target))
    return pairs, wrong


def load(settings):
    """The `Coder` that `settings` say, in a process that keeps its memory."""
    from pscodec.inference import load_codec
    from pscodec.utils.machine import keep_memory

    keep_memory()
    how = (settings.which, settings.device, settings.precision, settings.n_q, settings.entropy, settings.packet)
    return load_codec(settings.exp, *how, dict(settings.sampling), settings.vectors, settings.search)


codec = functools.lru_cache(maxsize=1)(load)  # this process's


def run(work, pairs, wrong, settings, jobs, desc, load=codec):
    """`work(settings, source, target)` for every pair, with what `load(settings)` gives; returns its results.

    What could not be done is told after all others are done, in one line each; the last is raised as UserError.
    """
    if not pairs and not wrong:
        raise UserError("nothing to do")
    if pairs:
        load(settings)  # what cannot be loaded is no file's fault
    results = []
    calls = [(work, settings, source, target) for source, target in pairs]
    for result, line in progress(_results(calls, jobs), desc, len(calls), disable=len(calls) < 2):
        if line:
            wrong.append(line)
        else:
            results.append(result)
    for line in wrong[:-1]:
        print(f"error: {line}", file=sys.stderr)
    if wrong:
        raise UserError(wrong[-1])
    return results


def _results(calls, jobs):
    jobs = min(jobs, len(calls))
    if jobs <= 1:
        yield from map(_one, calls)
        return
    import torch

    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    with concurrent.futures.ProcessPoolExecutor(jobs, context, torch.set_num_threads, (threads,)) as pool:
        try:
            yield from pool.map(_one, calls)
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError("a process died (out of memory?); start again with fewer --jobs") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _one(call):
    """(result, None) or (None, the line that says why not)."""
    work, settings, source, target = call
    try:
        if target != PIPE and os.path.exists(target) and not settings.force:
            raise UserError(f"{target} exists; --force overwrites it")
        return work(settings, source, target), None
    except UserError as error:
        return None, str(error) if str(error).startswith((source, target)) else f"{source}: {error}"
    except OSError as error:
        return None, f"{source}: {error.strerror or error}"
