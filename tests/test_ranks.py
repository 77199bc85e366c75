"""Several processes, started by torchrun, leave what one would have left; one that fails ends them all."""

import json
import os
import shutil
import socket
import time

import numpy as np
import pytest
import soundfile
import torch
from conftest import BOUND, errors, finish, start, torchrun

from pscodec.bin import decode, evaluate, extract_features
from pscodec.bin.extract_features import Settings, extract
from pscodec.data.kaldi import Utterance, load_matrices, read_table, write_data_dir, write_table
from pscodec.utils import ranks


def noise(path, seconds, seed):
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16000)), 16000)
    return path


@pytest.fixture
def data(tmp_path):
    """A data dir `data/test` of seven utterances of two speakers; who reads which is noted in `read`."""
    read, utterances = tmp_path / "read", []
    for i in range(7):
        path = noise(tmp_path / f"{i}.wav", 0.3 + 0.1 * i, i)
        command = f"echo $PPID {path.stem} >>{read}; cat {path} |"
        utterances.append(Utterance(f"u{i}", f"s{i % 2}", command, 0.3 + 0.1 * i))
    write_data_dir(tmp_path / "data/test", utterances)
    write_table(tmp_path / "data/test/utt2prompt", {f"u{i}": f"u{(i + 2) % 7}" for i in range(7)})
    return tmp_path / "data"


def readers(data):
    """`{recording: processes that read it}` since this was last asked."""
    found, note = {}, data.parent / "read"
    for line in note.read_text().splitlines() if note.exists() else []:
        pid, recording = line.split()
        found.setdefault(recording, []).append(pid)
    note.unlink(missing_ok=True)
    return found


def shared(found, processes, times=1):
    """Whether each recording was read so many times, by one process, and so many processes read as many but one."""
    pids = [pid for by in found.values() for pid in set(by)]
    counts = sorted(pids.count(pid) for pid in set(pids))
    once = all(len(by) == times and len(set(by)) == 1 for by in found.values())
    return once and len(found) == 7 and len(counts) == processes and counts[-1] - counts[0] <= 1


def contents(folder):
    """`{path: bytes}` of all files below `folder`, where they name it too."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes().replace(f"{folder}/".encode(), b"HERE/") for path in paths}


def test_a_process_alone_is_the_first_and_has_everything():
    assert (ranks.rank(), ranks.world(), ranks.first()) == (0, 1, True)
    assert ranks.share([1, 2, 3]) == [1, 2, 3] and ranks.gather("all") == ["all"]
    assert not torch.distributed.is_initialized()


def test_features_of_two_processes_are_those_of_one(data, campplus_path, capsys):
    (data.parent / "3.wav").write_bytes(b"")  # one that cannot be read
    shutil.copytree(data / "test", data / "both")
    options = ["--campplus", campplus_path, "--allow-pipes"]
    extract_features.main([str(word) for word in ["--data-dir", data / "test", *options]])
    told = capsys.readouterr()
    readers(data)
    status, out, err = torchrun(2, "pscodec.bin.extract_features", "--data-dir", data / "both", *options)
    assert status == 0, err[-1500:]
    assert out == told.out.replace(f"{data}/test", f"{data}/both") and "6 utterances made" in out
    warnings = [line for line in told.err.splitlines() if line.startswith(("left out", "warning"))]
    assert len(warnings) == 2
    for line in warnings:
        assert err.count(line.replace(f"{data}/test", f"{data}/both")) == 1
    assert shared(readers(data), 2)
    assert contents(data / "both") == contents(data / "test")


def test_a_process_that_dies_ends_all_and_loses_nothing(data):
    table = read_table(data / "test/wav.scp")
    whole = table["u4"]
    write_table(data / "test/wav.scp", table | {"u4": "kill -KILL $PPID |"})  # the third of the first process's four
    options = ["--data-dir", data / "test", "--allow-pipes"]
    began = time.monotonic()
    status, _, err = torchrun(2, "pscodec.bin.extract_features", *options)
    assert status != 0 and time.monotonic() - began < BOUND / 2
    assert len(errors(err)) <= 1 and "Signal 9" in err, "torchrun may be faster than those who wait"
    assert not (data / "test/fbank.scp").exists()
    done = set(readers(data)) - {"4"}
    parts = [set(read_table(p)) for p in (data / "test").glob("features.parts/*/mel.scp.part")]
    noted = set().union(*parts)
    assert {"u0", "u2"} <= noted <= {f"u{name}" for name in done}

    write_table(data / "test/wav.scp", table | {"u4": whole})
    status, out, err = torchrun(3, "pscodec.bin.extract_features", *options)
    assert status == 0, err[-1500:]
    assert f"of {7 - len(noted)} utterances made, of {len(noted)} already there, 0 left out" in out
    assert {f"u{name}" for name in readers(data)} == {f"u{i}" for i in range(7)} - noted
    shutil.copytree(data / "test", data / "alone", ignore=shutil.ignore_patterns("*.ark", "*.scp", "*.json"))
    shutil.copy(data / "test/wav.scp", data / "alone")
    extract(data / "alone", Settings(), allow_pipes=True)
    for kind in ("fbank", "mel"):
        found, wanted = (load_matrices(data / name / f"{kind}.scp") for name in ("test", "alone"))
        assert list(found) == list(wanted) and all(np.array_equal(found[utt], wanted[utt]) for utt in wanted)
    assert not (data / "test/features.parts").exists() and not list((data / "test").glob("*.part"))


def test_parts_that_several_processes_left_are_taken_in_by_one(data):
    folder, arrays = data / "test", {f"u{i}": np.full((2, 80), i, np.float32) for i in range(5)}
    extract(folder, Settings(), allow_pipes=True)
    for kind in ("fbank", "mel"):
        for name in (f"{kind}.ark", f"{kind}.scp"):
            (folder / name).unlink()
        for part, utts in (("00000", ("u0", "u2", "u4")), ("00001", ("u1", "u3"))):
            archive = extract_features.Archive(folder / "features.parts" / part, kind, False)
            for utt in utts:
                archive.add(utt, arrays[utt])
            archive.release()
    with open(folder / "features.parts/00001/mel.ark", "r+b") as file:
        file.truncate(file.seek(0, 2) - 10)  # the machine went down
    assert extract(folder, Settings(), allow_pipes=True) == (3, 4, {})  # u3 for the sake of its mel
    mel = load_matrices(folder / "mel.scp")
    assert list(mel) == [f"u{i}" for i in range(7)] and not (folder / "features.parts").exists()
    assert [float(mel[f"u{i}"].max()) for i in (0, 1, 2, 4)] == [0, 1, 2, 4] and mel["u3"].shape[0] > 2


@pytest.fixture
def decoded(data, tiny_exp, tmp_path, capsys):
    """Two copies of an experiment, of one name, for streams bear it; the first decoded by one process."""
    extract(data / "test", Settings(), allow_pipes=True)
    copies = [tmp_path / name / "tiny" for name in ("one", "two")]
    for copy in copies:
        shutil.copytree(tiny_exp, copy, ignore=shutil.ignore_patterns("decode"))
    decode.main([str(word) for word in decoding(copies[0], data)])
    readers(data)
    return copies


def decoding(exp, data):
    return ["--exp", exp, "--data", data, "--controls", "test", "--allow-pipes", "--device", "cpu"]


def test_two_processes_decode_as_one(data, decoded, capsys):
    told = capsys.readouterr().out
    one, two = decoded
    status, out, err = torchrun(2, "pscodec.bin.decode", *decoding(two, data))
    assert status == 0, err[-1500:]
    assert out == told.replace(str(one), str(two)) and "test.wrong_prompt: 7 utterances" in out
    assert shared(readers(data), 2, times=3)  # as it should be, and in two controls
    found = contents(two / "decode")
    assert found == contents(one / "decode") and len(found) == 3 * (7 + 7 + 2)


def evaluation(exp, data, *options):
    return ["--exp", exp, "--data", data, "--metrics", "stoi si_snr", "--nj", 1, "--allow-pipes", *options]


def told(exp):
    """The scores of `exp`; means to five digits, for threads add up in another order."""
    means = json.loads((exp / "summary.json").read_text(), parse_float=lambda digits: f"{float(digits):.5g}")
    return (exp / "scores.tsv").read_text(), means


def test_two_processes_score_as_one_and_one_that_fails_ends_both(data, decoded, capsys):
    one, _ = decoded
    evaluate.main([str(word) for word in evaluation(one, data)])
    wanted = told(one)
    table = capsys.readouterr().out.partition("test ")[2]
    readers(data)

    # One row cannot be scored: what the others have is kept, the error is told once.
    wav = one / "decode/test.wrong_prompt/wav/u6.wav"
    whole, state = wav.read_bytes(), wav.stat()
    soundfile.write(wav, np.zeros(100), 24000)
    began = time.monotonic()
    status, out, err = torchrun(2, "pscodec.bin.evaluate", *evaluation(one, data, "--rescore"))
    assert status != 0 and time.monotonic() - began < BOUND / 2
    (error,) = errors(err)
    assert "test.wrong_prompt: u6 has" in error and "Traceback" not in err.partition("error: ")[0]
    wav.write_bytes(whole)
    os.utime(wav, ns=(state.st_atime_ns, state.st_mtime_ns))

    kept = sum(len(path.read_text().splitlines()) for path in one.glob("scores.cache*.jsonl"))
    assert 10 <= kept <= 20 and (one / "scores.cache.1.jsonl").exists()
    status, out, err = torchrun(3, "pscodec.bin.evaluate", *evaluation(one, data))
    assert status == 0, err[-1500:]
    assert f"{kept} of 21 rows are as before, {21 - kept} to score" in out
    assert table.rpartition("wrote")[0] in out
    assert told(one) == wanted
    assert [path.name for path in one.glob("scores.cache*")] == ["scores.cache.jsonl"]
    keys = [tuple(json.loads(line)["key"]) for line in (one / "scores.cache.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 21, "no row was scored twice"


def test_two_nodes_share_the_work_and_what_fails_on_one_ends_both(data):
    """Two torchruns that meet, as on two nodes with one file system."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = ["--nnodes", 2, "--nproc_per_node", 1, "--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{port}"]
    program = ["pscodec.bin.extract_features", "--data-dir", data / "test", "--allow-pipes"]
    nodes = [start([*launch, "--rdzv_id", "good"], *program) for _ in range(2)]
    done = [finish(node) for node in nodes]
    assert [status for status, _, _ in done] == [0, 0], done
    assert sorted(out.count("7 utterances made") for _, out, _ in done) == [0, 1]
    assert shared(readers(data), 2) and len(load_matrices(data / "test/mel.scp")) == 7

    (data / "test/mel.scp").write_text("u0 elsewhere.ark:4\n")
    (data / "test/features.json").unlink()  # only the first process looks, the other waits for it
    nodes = [start([*launch, "--rdzv_id", "bad"], *program) for _ in range(2)]
    done = [finish(node) for node in nodes]
    assert all(status != 0 for status, _, _ in done)
    (error,) = [line for _, _, err in done for line in errors(err)]
    assert "did not make" in error
