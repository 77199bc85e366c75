"""Thin YAML: what composes, and what is refused in one line."""

import pytest

from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build, build_only, compose, resolve

BASE = """\
lr: 0.1
width: 4
codebook: !new:pscodec.quantizers.codebook.Codebook
    size: 8
    dim: !ref <width>
optimizer: !name:torch.optim.Adam
    lr: !ref <lr>
"""


@pytest.fixture
def conf(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "variant.yaml").write_text(
        "base: base.yaml\nwidth: 6\ncodebook: !new:pscodec.quantizers.rvq.ResidualVQ\n    dim: !ref <width>\n"
    )
    (tmp_path / "small.yaml").write_text("width: 2\n")
    return tmp_path


def test_variant_replaces_whole_keys_preset_lies_over_it_and_options_over_both(conf):
    from pscodec.quantizers.rvq import ResidualVQ

    hp = build(resolve(compose(conf / "variant.yaml", [conf / "small.yaml"]), {"lr": 0.5}))
    # HyperPyYAML's own overrides would have built the base's Codebook here
    assert type(hp["codebook"]) is ResidualVQ and hp["codebook"].layers[0].entries.shape == (512, 2)
    assert hp["optimizer"].keywords == {"lr": 0.5}
    assert build(resolve(compose(conf / "variant.yaml")))["codebook"].layers[0].entries.shape == (512, 6)


def test_resolved_text_is_closed(conf):
    text = resolve(compose(conf / "variant.yaml"))
    assert "!ref" not in text and "base:" not in text
    assert build_only(text, "codebook").layers[0].entries.shape == (512, 6)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("variant.yaml", "base: base.yaml\nwidht: 3\n", "unknown key 'widht' .did you mean 'width'"),
        ("variant.yaml", "base: none.yaml\n", "no such configuration"),
        ("variant.yaml", "base: base.yaml\nwidth: [1\n", "variant.yaml"),
        ("small.yaml", "codebook:\n    size: 3\n", "not a scalar"),
        ("small.yaml", "- 1\n", "not a YAML mapping"),
    ],
)
def test_mistakes_are_one_line(conf, file, text, message):
    (conf / file).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        compose(conf / "variant.yaml", [conf / "small.yaml"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("written", "value"), [("1e-3", 1e-3), ("2.5E5", 2.5e5), ("-3e+2", -300.0), ("1.25e-9", 1.25e-9)]
)
def test_exponents_are_numbers_as_people_write_them(conf, written, value):
    (conf / "small.yaml").write_text(f"lr: {written}\n")
    assert build(resolve(compose(conf / "variant.yaml", [conf / "small.yaml"])))["lr"] == value
    assert build(resolve(compose(conf / "variant.yaml"), {"lr": value}))["lr"] == value
    assert build(resolve(compose(conf / "variant.yaml"), {"lr": value}))["optimizer"].keywords["lr"] == value


def test_unknown_option(conf):
    with pytest.raises(UserError, match="unknown option --lrr .did you mean 'lr'"):
        resolve(compose(conf / "base.yaml"), {"lrr": 1})


def test_a_strangers_yaml_cannot_run_foreign_code(conf):
    for evil in (
        "!apply:os.system [true]",
        "!new:subprocess.Popen [[true]]",
        "!name:os.system",
        "!module:os",
        "!include:x.yaml",
    ):
        with pytest.raises(UserError, match="not a class of pscodec"):
            build_only(f"codec: {evil}\n", "codec")
        with pytest.raises(UserError, match="not a class of pscodec"):
            build_only(f"codec: !new:pscodec.quantizers.codebook.Codebook\n    size: 8\n    dim: {evil}\n", "codec")


def test_a_value_that_a_part_refuses_is_one_line():
    text = "part: !new:pscodec.layers.transformer.SelfAttention\n    channels: 8\n    n_heads: 3\n"
    with pytest.raises(UserError, match="cannot be built: .*8 channels do not divide into 3 heads"):
        build(text)
