"""What a row of a table costs: its parameters, the minutes that it was trained, and how fast it codes here."""

import json
from statistics import median

import torch

from pscodec.bin.report import read_curves
from pscodec.commands.bench import network, timed
from pscodec.inference import load_codec
from pscodec.utils.files import write_text

COSTS = {
    "parameters": "parameters, M",
    "minutes": "training, min",
    "encode": "encode, × real time",
    "decode": "decode, × real time",
}
SECONDS, ROUNDS = 4.0, 3  # of noise, coded by one thread


def costs_path(folder, name):
    return folder / f"{name}.costs.json"


def read_costs(folder, paper, n_q):
    """`{(row id, n_q): {one of COSTS: number}}` of the files ROW_Nq.costs.json in `folder`."""
    paths = {(row.id, k): costs_path(folder, f"{row.id}_{k}q") for row in paper.systems for k in n_q}
    return {key: json.loads(path.read_text(encoding="utf-8")) for key, path in paths.items() if path.is_file()}


def write_costs(path, exp, values, before=0.0):
    """Measure the experiment `exp`, trained with `values`; `before`: minutes of the training that it goes on from."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        costs = {"minutes": before + minutes_of(exp, values["batch_size"] * values["segment"]), **speed(exp)}
    finally:
        torch.set_num_threads(threads)
    write_text(path, json.dumps(costs) + "\n")
    return costs


def minutes_of(exp, seconds_a_step):
    """Minutes that training took, validations not among them, by the speeds that were logged."""
    steps, speeds = read_curves(exp / "curves.tsv").get("speech_per_second", {}).get("train", ([], []))
    since = [now - last for last, now in zip([0, *steps], steps, strict=False)]
    return sum(n * seconds_a_step / speed / 60 for n, speed in zip(since, speeds, strict=True))


@torch.inference_mode()
def speed(exp):
    """Millions of parameters, frozen ones among them, and times real time in memory, medians."""
    coder = load_codec(exp, precision="auto")
    model = coder.model
    parameters = load_codec(exp, precision=None).model.parameters()
    encode, decode = network(coder)
    generator = torch.Generator().manual_seed(0)
    wav = 0.1 * torch.randn(1, model.channels, round(SECONDS * model.sample_rate), generator=generator)
    took = {"encode": [], "decode": []}
    for _ in range(ROUNDS + 1):  # the first warms up
        times = {}
        timed(times, "decode", decode, timed(times, "encode", encode, wav))
        for way, found in times.items():
            took[way].append(found)
    speeds = {way: SECONDS / median(found[1:]) for way, found in took.items()}
    return {"parameters": sum(p.numel() for p in parameters) / 1e6, **speeds}
