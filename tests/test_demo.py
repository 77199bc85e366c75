"""The page that codes speech in a browser: its graphs, its bytes, its codes."""

import functools
import signal
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from conftest import TINY, make_experiment, until

from pscodec import bitstream, cli
from pscodec.data.audio import load_audio
from pscodec.demo import build, runtime
from pscodec.demo.graphs import write_graphs
from pscodec.demo.serve import server
from pscodec.inference import Coder, load_codec
from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build_only, compose, resolve
from pscodec.utils.web import bundle, data


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """A tiny PSCodec for one codebook and two, with MelP-Enc alone: CAM++ would make its page 30 MB larger."""
    return make_experiment(tmp_path_factory.mktemp("exp") / "tiny", n_residual=2, n_q_dropout=0.4, vpp_enc=None)


# ---- the graphs


def run(folder, name, **inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options)
    return dict(zip((node.name for node in session.get_outputs()), session.run(None, inputs), strict=True))


def test_the_parts_do_what_the_codec_does(voice, tmp_path_factory, tmp_path):
    exp = make_experiment(tmp_path_factory.mktemp("exp") / "tiny", n_residual=2, n_q_dropout=0.4)
    facts = write_graphs(load_codec(exp, precision=None), [1, 2], tmp_path)
    assert [r["n_q"] for r in facts["rates"]] == [1, 2] and facts["rates"][1]["bitrate"] == 2 * 6 * 75
    assert {f"{name}.onnx" for name in facts["graphs"]} == {path.name for path in tmp_path.iterdir()}
    coder, (wav, rate) = load_codec(exp), load_audio(voice)
    z = run(tmp_path, "encoder", wav=wav[None].numpy())["z"]
    side = run(tmp_path, "side", wav=wav[None].numpy())
    sent = coder.model.side(coder.prompt(wav, rate))
    assert list(sent) == list(side) == ["z_vp", "z_mel"]
    assert all(np.abs(side[name] - sent[name].detach().numpy()).max() < 1e-4 for name in sent)
    for n_q in (1, 2):
        coder.model.quantizer.n_q = n_q
        stream = coder.encode(wav, rate)
        codes = run(tmp_path, f"quantizer{n_q}", z=z)["codes"]
        assert codes.dtype == np.int64 and np.array_equal(codes[0], stream.codes)
        z_q = run(tmp_path, f"lookup{n_q}", codes=codes)["z_q"]
        heard = {name: vector.floats()[None, :, None] for name, vector in stream.header.side.items()}
        wav_hat = run(tmp_path, "decoder", z_q=z_q, **heard)["wav"][0, :, :48000]
        assert np.abs(wav_hat - coder.decode(stream).numpy()).max() < 1e-4


def other(recipe, name, **options):
    torch.manual_seed(0)
    text = resolve(compose(recipe / f"conf/{name}.yaml", [recipe / "conf/presets/mini.yaml"]), options)
    return Coder(build_only(text, "codec").eval(), name=name)


def test_tokens_of_the_recording_itself(recipe, voice, tmp_path):
    coder = other(
        recipe, "ticodec", **{k: TINY[k] for k in ("width", "latent_dim", "kernels", "dilations")}, decoder_width=64
    )
    wav, rate = load_audio(voice)
    tokens = coder.header((wav, rate)).side["time_invariant"].codes
    facts = write_graphs(coder, [1], tmp_path)
    assert facts["sees_whole_frames"] and facts["side"] == [{"name": "time_invariant", "entries": 1024}]
    assert np.array_equal(run(tmp_path, "side", wav=wav[None].numpy())["time_invariant"][0], tokens)


def test_codecs_that_no_page_can_have(recipe, exp, tmp_path):
    with pytest.raises(UserError, match="encodec_noncausal: codes chunks or several channels"):
        write_graphs(other(recipe, "encodec_noncausal", width=4), [2], tmp_path)
    with pytest.raises(UserError, match="cannot code with 3 codebooks; it can be 1 2"):
        write_graphs(load_codec(exp, precision=None), [3], tmp_path)
    with pytest.raises(UserError, match="encoder.onnx: ONNX cannot say this: Unsupported: .* Unfold"):
        write_graphs(other(recipe, "apcodec", width=8, decoder_width=8), [4], tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- what a page is made of


def test_scripts_are_joined_in_order_and_once(tmp_path):
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\nimport { c } from "./c.js";\n\nb(c);\n')
    (tmp_path / "b.js").write_text('import { c } from "./c.js";\n\nexport function b() {\n  return c;\n}\n')
    (tmp_path / "c.js").write_text("export const c = 1;\n")
    assert bundle(tmp_path / "a.js") == "const c = 1;\n\nfunction b() {\n  return c;\n}\n\nb(c);\n"
    (tmp_path / "c.js").write_text("export const c = 1;\nconst b = 2;\n")
    with pytest.raises(ValueError, match="b is the name of two things"):
        bundle(tmp_path / "a.js")
    assert data("x", "text/plain", "'</script>'") == '<script type="text/plain" id="x">\'<\\/script>\'</script>\n'


def test_the_runtime_is_found_or_named(tmp_path, monkeypatch):
    dist = tmp_path / "project/node_modules/onnxruntime-web/dist"
    dist.mkdir(parents=True)
    for name in runtime.FILES:
        (dist / name).write_bytes(b"")
    (tmp_path / "project/deep").mkdir()
    monkeypatch.chdir(tmp_path / "project/deep")
    assert (
        runtime.find_runtime()
        == dist
        == runtime.find_runtime(dist.parent)
        == runtime.find_runtime(tmp_path / "project")
    )
    with pytest.raises(UserError, match="not onnxruntime-web: it has no ort.wasm"):
        runtime.find_runtime(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="nor npm to fetch it: name its folder with --runtime"):
        runtime.find_runtime()


# ---- in a browser


@pytest.fixture(scope="module")
def page(exp, tmp_path_factory):
    """The folder of a page of `exp`, made by the command."""
    folder = tmp_path_factory.mktemp("page")
    try:
        runtime.find_runtime()
    except UserError as error:
        pytest.skip(str(error))
    cli.main(["demo", "--exp", str(exp), "--out", str(folder)])
    return folder


def status(browser):
    element = browser.find_element("id", "status")
    assert "error" not in element.get_attribute("class"), element.text
    return element.text


def load(browser, url):
    browser.get(url)
    until(lambda: status(browser).startswith("Speak, or drop"))


def files(browser):
    """What the page offers to save, by name."""
    script = """const done = arguments[0], links = [...document.querySelectorAll(".links a")];
        const read = async (a) => [...new Uint8Array(await (await fetch(a.href)).arrayBuffer())];
        Promise.all(links.map(async (a) => [a.download, await read(a)])).then((x) => done(Object.fromEntries(x)));"""
    return {name: bytes(content) for name, content in browser.execute_async_script(script).items()}


def check_coded(exp, found, wav):
    """Files that the page made are those that Python makes of `wav`, and what it plays is what Python decodes."""
    coder = load_codec(exp)
    for n_q, bitrate in ((1, 450), (2, 900)):
        coder.model.quantizer.n_q = n_q
        content = found[f"{bitrate}bps.psc"]
        stream, expected = bitstream.unpack(content), coder.encode(wav, 24000)
        assert np.array_equal(stream.codes, expected.codes) and stream.n_samples == len(wav)
        assert bitstream.pack(stream) == content and not stream.damage
        assert stream.header.fingerprint == coder.fingerprint and stream.header.model == "tiny"
        for name, vector in expected.header.side.items():
            assert np.abs(stream.header.side[name].floats() - vector.floats()).max() <= 1.01 * vector.step
        played = np.frombuffer(found[f"{bitrate}bps.wav"][44:], "<i2") / 32768
        assert np.abs(played - coder.decode(stream)[0].numpy()).max() < 1e-3


def test_crc_and_rounding_are_pythons(browser):
    browser.get("about:blank")
    text = bundle(build.HERE / "psc.js")
    assert browser.execute_script(text + "return crc32(new TextEncoder().encode('123456789'))") == 0xCBF43926
    # the largest becomes 127; halves go to the even number: 1 / 2 of a step to 0, 3 / 2 to 2
    found = browser.execute_script(text + "return quantize(Float32Array.of(-254, 1, 3, 5, -1))")
    assert found == {"levels": [-127, 0, 2, 2, 0], "step": 2}


def test_a_file_is_coded_on_a_page_from_the_disk(browser, page, exp, voice, tmp_path):
    load(browser, (page / "index.html").as_uri())
    browser.find_element("id", "file").send_keys(str(voice))
    until(lambda: status(browser).startswith("voice.wav, 2.0 s"))
    found, (wav, _) = files(browser), soundfile.read(voice, dtype="float32")
    assert sorted(found) == ["450bps.psc", "450bps.wav", "900bps.psc", "900bps.wav", "original.wav"]
    check_coded(exp, found, wav)
    told = [element.text for element in browser.find_elements("css selector", ".facts")]
    # 75 frames of 6 bits are 57 bytes, twice; a vector of 32 and its name 1 + 6 + 6 + 32; the header 38, packets 14
    parts = "211 bytes (codes 114 + prompt 45 + packets 52) · 844 bit/s in all"
    assert told[1].startswith(parts) and len(found["450bps.psc"]) == 211
    # 1/6 s is at column 75 of 900; there the voice is loud around 700 Hz (bin 30) and has nothing at 11 kHz (bin 470)
    program = """const c = document.querySelector("canvas"), [bin] = arguments, y = c.height - 6 - bin;
        return Math.max(...c.getContext("2d").getImageData(75, y, 1, 12).data.filter((_, i) => i % 4 === 0));"""
    assert browser.execute_script(program, 470) < 60 < 200 < browser.execute_script(program, 30)
    play = browser.find_elements("css selector", ".play")
    play[2].click()
    until(lambda: play[2].get_attribute("aria-label") == "stop" and play[0].get_attribute("aria-label") == "play")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    (tmp_path / "text.wav").write_text("no sound")
    browser.find_element("id", "file").send_keys(str(tmp_path / "text.wav"))
    error = browser.find_element("css selector", "#status.error")
    assert error.text == "text.wav: this browser cannot read it as audio"


def test_what_the_microphone_hears_is_coded(browser, page, exp):
    with server(page, 0) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        load(browser, f"http://localhost:{opened.server_port}/")
        browser.find_element("id", "record").click()
        until(lambda: status(browser).startswith("Listening") and float(status(browser).split()[1]) > 2)
        browser.find_element("id", "record").click()
        until(lambda: status(browser).startswith("your voice"))
        found = files(browser)
        opened.shutdown()
    wav = np.frombuffer(found["original.wav"][44:], "<i2").astype(np.float32) / 32768
    assert 1.9 < len(wav) / 24000 < 30 and np.abs(wav).max() > 0.05
    codes, expected = bitstream.unpack(found["900bps.psc"]).codes, load_codec(exp).encode(wav, 24000).codes
    assert codes.shape == expected.shape and (codes != expected).mean() < 0.02  # of samples rounded to 16 bits


def test_a_folder_is_served_here_until_it_is_interrupted(tmp_path):
    (tmp_path / "index.html").write_text("<p>a page")
    command = [sys.executable, "-m", "pscodec.cli", "demo", "--out", str(tmp_path), "--serve", "--port", "0"]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs would not
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed) as program:
        assert "is there already" in program.stdout.readline()
        url = program.stdout.readline().split()[0]
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == b"<p>a page"
        with pytest.raises(SystemExit, match=r"port \d+: Address already in use"):
            cli.main([*command[3:-1], url.rpartition(":")[2]])
        program.send_signal(signal.SIGINT)
        assert program.wait(30) == 0


def test_a_page_is_not_overwritten(page, exp):
    with pytest.raises(SystemExit, match="index.html exists; --force overwrites it"):
        cli.main(["demo", "--exp", str(exp), "--out", str(page)])
