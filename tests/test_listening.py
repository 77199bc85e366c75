"""Listening tests: what is heard, what the page does in a browser, who is believed, and the means."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch
from conftest import until

from pscodec import cli
from pscodec.data.audio import save_audio
from pscodec.data.recordings import find_recordings
from pscodec.listening import make as making
from pscodec.listening.make import Key, make, read_key
from pscodec.listening.results import distrust, read_results, summarise
from pscodec.listening.sounds import anchor, excerpts, faded
from pscodec.utils.errors import UserError
from pscodec.utils.web import bundle

RATE = 16000


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three folders of the same four utterances, ramps that rise by one step of 16 bits a sample, 1 s each: the
    reference, `near`, which is 1000 steps above it, and `far`, 2000 below. `far` has one more."""
    root = tmp_path_factory.mktemp("systems")
    ramp = torch.arange(RATE) / 32768
    for name, offset in (("ref", 0.1), ("near", 0.1 + 1000 / 32768), ("far", 0.1 - 2000 / 32768)):
        for utt in ("alpha", "bravo", "charlie", "delta") + (("echo",) if name == "far" else ()):
            save_audio(root / name / f"{utt}.wav", ramp + offset, RATE)
    return root


# ---- what is heard


def test_the_low_anchor_keeps_to_bs_1534():
    impulse = torch.zeros(4801)
    impulse[2400] = 1
    low = anchor(impulse, 24000, 3500)
    assert low.shape == impulse.shape and low.argmax() == 2400  # nothing is delayed
    spectrum = 20 * np.log10(np.abs(np.fft.rfft(low.numpy())) + 1e-12)
    hz = np.fft.rfftfreq(4801, 1 / 24000)
    assert np.abs(spectrum[hz <= 3500]).max() < 0.1
    assert spectrum[hz >= 4000].max() < -25 and spectrum[hz >= 4500].max() < -50
    with pytest.raises(UserError, match="3500 Hz needs more than 8000"):
        anchor(impulse, 8000, 3500)


def test_excerpts_are_the_same_stretch_of_all(folders):
    found = [find_recordings(folders / name)["bravo"] for name in ("ref", "near", "far")]
    (ref, near, far), rate = excerpts(found, 0.25, None, np.random.default_rng(3))
    assert rate == RATE and len(ref) == len(near) == len(far) == 4000
    inner = slice(160, -160)  # what is not faded
    assert torch.allclose(near[inner] - ref[inner], torch.tensor(1000 / 32768), atol=2e-5)
    assert torch.allclose(far[inner] - ref[inner], torch.tensor(-2000 / 32768), atol=2e-5)
    assert len(excerpts(found, None, None, np.random.default_rng(3))[0][0]) == RATE
    assert torch.allclose(faded(torch.ones(8), 300), torch.tensor([0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]))


def test_recordings_that_are_not_of_one_utterance_are_refused(folders, tmp_path):
    save_audio(tmp_path / "alpha.wav", torch.zeros(RATE // 2), RATE)
    with pytest.raises(UserError, match=r"alpha.wav: 0.50 s shorter than .*ref/alpha.wav"):
        make(tmp_path / "test", {"short": tmp_path}, folders / "ref")
    soundfile.write(tmp_path / "alpha.flac", np.zeros(8), RATE)
    with pytest.raises(UserError, match="two recordings are called alpha"):
        find_recordings(tmp_path)


# ---- the folder of a test


@pytest.fixture(scope="module")
def mushra(folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mushra")
    systems = {"near": folders / "near", "far": folders / "far"}
    key, left_out = make(folder, systems, folders / "ref", number=2, seconds=0.25)
    assert left_out == 1  # echo, which only one has
    return folder, key


def test_the_page_tells_nothing_of_what_is_heard(mushra):
    folder, key = mushra
    heard = {p.stem for p in (folder / "audio").iterdir()}
    assert heard == {*key.stimuli, *key.references.values()} and len(heard) == 2 * (2 + 1 + 1 + 1)
    per_item = {}
    for item, system in key.stimuli.values():
        per_item.setdefault(item, []).append(system)
    assert all(sorted(s) == ["anchor 3500 Hz", "far", "near", "reference"] for s in per_item.values())
    assert [len(ids) for ids, reference in key.trials] == [4, 4] and read_key(folder) == key
    text = (folder / "index.html").read_text()
    assert key.id in text and not any(word in text for word in ("near", "far.wav", *per_item, "3500"))
    page = text[text.index('id="test.json">') + len('id="test.json">') :]
    test = json.loads(page[: page.index("</script>")])
    assert {id_ for trial in test["trials"] for id_ in trial["stimuli"]} == set(key.stimuli)


def test_a_seed_draws_the_same_test_again(mushra, folders, tmp_path):
    _, key = mushra
    systems = {"near": folders / "near", "far": folders / "far"}
    again, _ = make(tmp_path, systems, folders / "ref", number=2, seconds=0.25)
    assert again == key
    other, _ = make(tmp_path, systems, folders / "ref", number=2, seconds=0.25, seed=1)
    assert other.id != key.id
    assert {p.stem for p in (tmp_path / "audio").iterdir()} == {*other.stimuli, *other.references.values()}


def test_mos_asks_of_one_recording_at_a_time_and_smos_beside_the_reference(folders, tmp_path):
    mos, _ = make(tmp_path / "mos", {"near": folders / "near"}, number=3, kind="mos")
    assert [(len(ids), reference) for ids, reference in mos.trials] == [(1, None)] * 3
    smos, _ = make(tmp_path / "smos", {"near": folders / "near"}, folders / "ref", number=3, kind="smos")
    assert len(smos.trials) == 6 and {reference for _, reference in smos.trials} == set(smos.references.values())
    assert not smos.anchors


def test_what_a_test_cannot_be_made_of(folders, tmp_path, capsys):
    near, out = str(folders / "near"), ["--out", str(tmp_path / "test")]
    empty = tmp_path / "empty"
    empty.mkdir()
    for args, message in (
        ([near], "a MUSHRA test needs a reference"),
        ([near, near, "--kind", "mos"], "two systems are called near"),
        ([f"reference={near}", "--kind", "mos"], "none that is called reference"),
        ([near, str(empty), "--kind", "mos"], "empty: no recordings"),
        ([near, "--kind", "mos", "--number", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["listening-test", *args, *out])
    assert not (tmp_path / "test").exists()
    cli.main(["listening-test", near, "--kind", "mos", "--number", "2", *out])
    assert "mos, 1 systems, 2 utterances, 2 trials" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists; --force overwrites it"):
        cli.main(["listening-test", near, "--kind", "mos", *out])


# ---- what listeners said


def a_key(n, kind="mushra"):
    """A test of n utterances, whose ids say what they are: r0 a0 l0 (the anchor), r1 ..."""
    names = {"r": "reference", "a": "ours", "b": "theirs", "l": "anchor 3500 Hz"}
    stimuli = {f"{letter}{i}": [f"utt{i}", name] for i in range(n) for letter, name in names.items()}
    return Key(kind, 0, ["ours", "theirs"], ["anchor 3500 Hz"], stimuli, {f"utt{i}": f"o{i}" for i in range(n)})


def rated(reference, anchor):
    ratings = {"r": reference, "l": anchor, "a": [50] * len(reference)}
    return {f"{letter}{i}": value for letter, values in ratings.items() for i, value in enumerate(values)}


@pytest.mark.parametrize(
    ("reference", "anchor", "why"),
    [
        ([89, 90, 90, 90, 90], [0] * 5, "the hidden reference below 90 in 1 of 5"),  # at least 20 %
        ([89, 90, 90, 90, 90, 90], [0] * 6, None),
        ([100] * 4, [81, 81, 80, 0], None),  # not more than 50 %
        ([100] * 4, [81, 81, 81, 0], "the low anchor above 80 in 3 of 4"),
    ],
)
def test_listeners_are_believed_as_in_encodecs_paper(reference, anchor, why):
    ratings = rated(reference, anchor)
    assert distrust(ratings, a_key(len(reference))) == why
    assert distrust(ratings, a_key(len(reference), "smos")) is None


def test_means_and_intervals_by_hand():
    key = a_key(2)
    results = {"anna": {"a0": 60, "a1": 70, "b0": 50, "b1": 70}, "ben": {"a0": 80, "a1": 90, "b0": 80, "b1": 80}}
    summary = summarise(results, key)
    ours = summary["systems"]["ours"]
    # four ratings around 75: sum of squares 500, t(3) = 3.1824; listeners' means 65 and 85, t(1) = 12.7062
    assert ours["mean"] == 75 and ours["n"] == 4
    assert ours["ci95"] == pytest.approx(3.182446 * math.sqrt(500 / 3) / 2, rel=1e-5)
    assert ours["ci95_listeners"] == pytest.approx(12.706205 * 10, rel=1e-5)
    gap = summary["differences"]["ours - theirs"]  # 10, 0, 0, 10
    assert gap["mean"] == 5 and gap["ci95"] == pytest.approx(3.182446 * math.sqrt(100 / 3) / 2, rel=1e-5)
    assert gap["ci95_listeners"] == 0  # both differ by 5 on average
    assert list(summary["systems"]) == ["reference", "ours", "theirs", "anchor 3500 Hz"]
    assert summary["systems"]["reference"]["mean"] is None


def save(path, key, listener="anna", drop=0, value=70):
    trials = [{"seconds": 9, "ratings": dict.fromkeys(ids, value)} for ids, _ in key.trials]
    trials[0]["ratings"] = dict(list(trials[0]["ratings"].items())[drop:])
    path.write_text(json.dumps({"test": key.id, "kind": key.kind, "listener": listener, "trials": trials}))
    return path


def test_files_that_are_not_whole_results_are_refused_by_name(tmp_path):
    key = a_key(2)
    good = save(tmp_path / "good.json", key)
    assert read_results([good, save(tmp_path / "again.json", key)], key) == {"anna": dict.fromkeys(key.stimuli, 70)}
    for path, message in (
        (save(tmp_path / "part.json", key, drop=1), "part.json: trials that are not whole"),
        (save(tmp_path / "high.json", key, value=101), "high.json: ratings that are not numbers from 0 to 100"),
        (save(tmp_path / "bool.json", key, value=True), "bool.json: ratings that are not numbers"),
        (save(tmp_path / "other.json", a_key(3)), "other.json: results of another test"),
        (save(tmp_path / "differs.json", key, value=71), "differs.json: another file has other ratings of anna"),
        (tmp_path / "none.json", "none.json: No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(UserError, match=message):
            read_results([good, path], key)
    (tmp_path / "text.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="text.json: not the results"):
        read_results([tmp_path / "text.json"], key)


# ---- in a browser


def run(browser, name, program):
    return browser.execute_script(bundle(making.HERE / name) + program)


def test_orders_follow_from_words(browser):
    browser.get("about:blank")
    # FNV-1a of "a" is e40c292c; then xorshift32 by 13, 17, 5
    drawn = run(
        browser, "order.js", "const next = generator('a'); return [next(), next(), next()].map((x) => x * 2 ** 32)"
    )
    assert drawn == [1142599352, 679046558, 3164553243]
    # of 4: floor(4 * 0.266) = 1 takes the place of the last; floor(3 * 0.158) = 0; floor(2 * 0.737) = 1
    assert run(browser, "order.js", "return shuffled(['w', 'x', 'y', 'z'], generator('a'))") == ["y", "z", "w", "x"]


def sounds(browser):
    return browser.find_elements("css selector", "#sounds .sound")


def begin(browser, folder, listener):
    browser.get((folder / "index.html").as_uri())
    browser.find_element("id", "listener").send_keys(listener)
    browser.find_element("css selector", "#begin .main").click()


def listen(browser):
    """Hear all sounds of a trial, and tell their ids in their order."""
    for sound in sounds(browser):
        sound.find_element("css selector", "button").click()
        until(lambda sound=sound: "heard" in sound.get_attribute("class"))
    return [sound.get_attribute("id").removeprefix("sound-") for sound in sounds(browser)]


def results_of(browser, listener):
    """The file that the page saves."""
    browser.find_element("id", "save").click()
    return until(lambda: next(filter(written, browser.downloads.glob(f"listening_*_{listener}.json")), None))


def written(path):
    """Whether all of it is there."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return False


def test_a_listener_clicks_through_mushra(browser, mushra, capsys):
    folder, key = mushra
    rating = {"reference": 100, "near": 80, "far": 60, "anchor 3500 Hz": 20}
    begin(browser, folder, "anna")
    orders = []
    for trial in range(2):
        after = browser.find_element("id", "next")
        assert not after.is_enabled()
        orders.append(listen(browser))
        assert not after.is_enabled() and browser.find_element("id", "missing").text == "4 to be rated"
        for id_ in orders[-1][1:]:
            slider = browser.find_element("css selector", f"#sound-{id_} input")
            value = rating[key.stimuli[id_][1]]
            browser.execute_script("arguments[0].value = arguments[1]; arguments[0].oninput()", slider, value)
        assert after.is_enabled()
        after.click()
        if trial == 0:  # the same listener goes on where she was
            begin(browser, folder, "anna")
            assert browser.find_element("id", "place").text == "2 of 2"
    found = results_of(browser, "anna")
    for ids in orders:
        assert ids[0] in key.references.values() and (sorted(ids[1:]), ids[0]) in key.trials
    assert [list(trial["ratings"]) for trial in json.loads(found.read_text())["trials"]] == [o[1:] for o in orders]
    cli.main(["listening-results", str(folder), str(found), "--json", str(folder / "scores.json")])
    assert "MUSHRA, 1 listeners" in capsys.readouterr().out
    scores = json.loads((folder / "scores.json").read_text())
    assert {name: entry["mean"] for name, entry in scores["systems"].items()} == rating
    assert scores["differences"]["near - far"]["mean"] == 20
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_one_who_hears_no_difference_is_left_out(mushra, tmp_path, capsys):
    folder, key = mushra
    deaf = save(tmp_path / "deaf.json", key, "deaf", value=85)
    with pytest.raises(SystemExit, match="no listener is left"):
        cli.main(["listening-results", str(folder), str(deaf)])
    assert "left out: deaf rates the hidden reference below 90 in 2 of 2" in capsys.readouterr().out
    cli.main(["listening-results", str(folder), str(deaf), "--keep-all"])
    assert "near - far" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no key.json"):
        cli.main(["listening-results", str(tmp_path), str(deaf)])


def test_a_listener_clicks_through_some_of_smos(browser, folders, tmp_path):
    key, _ = make(tmp_path, {"near": folders / "near"}, folders / "ref", "smos", number=2, seconds=0.25, per_listener=3)
    begin(browser, tmp_path, "ben")
    for value in (5, 3, 1):
        reference, id_ = listen(browser)
        assert key.references[key.stimuli[id_][0]] == reference
        browser.find_elements("css selector", f"#sound-{id_} label")[value - 1].click()
        browser.find_element("id", "next").click()
    results = read_results([results_of(browser, "ben")], key)
    assert list(results["ben"].values()) == [5, 3, 1]
