"""The page of samples."""

import re

import pytest
import soundfile

from pscodec.bin import samples


def test_a_page_of_two_codecs(codec_exp, folder, tmp_path, capsys):
    out = tmp_path / "page"
    words = ["--data", str(folder.parent / "clean"), "--codec", str(codec_exp), f"{codec_exp}:1", "--out", str(out)]
    samples.main([*words, "--count", "2", "--title", "A <title>", "--note", "whose"])
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page and "whose" in page and page.count("class='card'") == 2
    files = re.findall(r'(?:src|srcset)="([^":]+)"', page)
    assert len(files) == 2 * (3 + 2) and all((out / file).is_file() for file in files)
    wav, rate = soundfile.read(out / next(f for f in files if f.startswith("a-1") and f.endswith("0.ogg")))
    assert rate == 24000 and len(wav) == 48000 and abs(wav).max() > 0.1
    assert len(re.findall(r"kbit/s in all", page)) == 4


@pytest.mark.parametrize("more", [["--count", "0"], ["--codec", "nothing"]])
def test_refusals(codec_exp, folder, tmp_path, more):
    words = ["--data", str(folder.parent / "clean"), "--codec", str(codec_exp), "--out", str(tmp_path / "x"), *more]
    with pytest.raises(SystemExit, match="error: "):
        samples.main(words)
    assert not (tmp_path / "x").exists()
