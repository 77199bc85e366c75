"""Thin YAML: what composes, and what is refused in one line."""

import pytest
import torch

from pscodec.utils.errors import UserError
from pscodec.utils.hparams import build, build_only, compose, plain, resolve
from pscodec.utils.options import as_now, check_same_model

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


# ---- paths


def test_a_variant_sets_a_path_and_leaves_what_stands_beside_it(conf):
    variant = "base: base.yaml\ncodebook.size: 4\ncodebook.update: ema\n"
    (conf / "variant.yaml").write_text(variant)
    book = build(resolve(compose(conf / "variant.yaml")))["codebook"]
    assert book.entries.shape == (4, 4) and book.update == "ema"
    (conf / "variant.yaml").write_text(f"{variant}codebook: !new:pscodec.quantizers.codebook.Codebook\n    size: 9\n")
    assert "dim" not in compose(conf / "variant.yaml").split("codebook:")[1].split("optimizer")[0], "in their order"
    assert build(resolve(compose(conf / "base.yaml"), {"codebook.size": 5}))["codebook"].size == 5


def test_one_more_loss_is_two_lines(recipe, tmp_path):
    text = f"base: {recipe}/conf/pscodec_base.yaml\n"
    text += "losses.terms.diffusion: !new:pscodec.losses.base.ModelLoss\n    name: diffusion\n"
    (tmp_path / "x.yaml").write_text(text + "losses.weights.diffusion: 5\n")
    losses = plain(resolve(compose(tmp_path / "x.yaml"), {"losses.weights.adv": 4}))["losses"]
    assert losses["weights"]["diffusion"] == 5 and losses["weights"]["adv"] == 4 and "wav" in losses["terms"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("codebok.size: 3", "unknown key 'codebok.size' .did you mean 'codebook'"),
        ("codebook.inner.size: 3", "unknown key 'codebook.inner.size'"),
        ("lr.size: 3", "unknown key 'lr.size': lr has no entries"),
    ],
)
def test_a_path_that_leads_nowhere(conf, line, message):
    (conf / "variant.yaml").write_text(f"base: base.yaml\n{line}\n")
    with pytest.raises(UserError, match=message):
        compose(conf / "variant.yaml")


def test_an_entry_that_a_part_does_not_know_is_one_line(conf):
    (conf / "variant.yaml").write_text("base: base.yaml\ncodebook.sise: 3\n")
    with pytest.raises(UserError, match="cannot be built: .*'sise'"):
        build(resolve(compose(conf / "variant.yaml")))


# ---- an experiment that is resumed


@pytest.fixture
def exp(conf):
    (conf / "exp/save/CKPT+1").mkdir(parents=True)
    (conf / "exp/hyperparams.yaml").write_text(resolve(compose(conf / "base.yaml"), {"lr": 0.3}))
    return conf / "exp"


def resumed(exp, options, config="base.yaml"):
    def anew(known):
        return resolve(compose(exp.parent / config), known)

    check_same_model(exp, anew(options), anew=anew)


def test_the_same_configuration_goes_on_and_another_does_not(exp):
    resumed(exp, {"lr": 0.3})
    for options, told in (
        ({"lr": 0.2}, "lr: 0.3 there, 0.2 here"),
        ({"lr": 0.3, "width": 5}, "width: 4 there, 5 here"),
    ):
        with pytest.raises(UserError, match=f"another configuration .{told}"):
            resumed(exp, options)
    with pytest.raises(UserError, match="codebook.class: .*Codebook there, .*ResidualVQ here"):
        resumed(exp, {"lr": 0.3, "width": 4}, "variant.yaml")


def test_a_key_that_is_new_counts_as_its_default(exp):
    more = "clip: !ref <lr>\nwide: 7\nnest:\n    deep: 1\n"
    (exp.parent / "base.yaml").write_text(BASE.replace("    size: 8\n", "    size: 8\n    decay: 0.9\n") + more)
    resumed(exp, {"lr": 0.3})
    for options, told in (
        ({"wide": 8}, "wide: 7 there, 8 here"),
        ({"clip": 0}, "clip: 0.3 there, 0 here"),
        ({"codebook.decay": 0.5}, "codebook.decay: 0.9 there, 0.5 here"),
    ):
        with pytest.raises(UserError, match=told):
            resumed(exp, {"lr": 0.3} | options)


def test_discriminators_that_were_written_out_are_those_that_a_list_makes():
    head = "discriminators:\n  modules:\n    each: !new:pscodec.discriminators.base.ByBitrate\n"
    mpd = "pscodec.discriminators.mpd.MultiPeriodDiscriminator\n"
    each = "".join(f"        {k}: !new:{mpd}          width: 1\n" for k in (2, 4))
    now = f"{head}      n_q: [2, 4]\n      part: !name:{mpd}        width: 1\n"
    assert as_now(plain(f"{head}      parts:\n{each}")) == plain(now)
    first, second = build(now)["discriminators"]["modules"]["each"].parts.values()
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs), "each begins by itself"


def test_one_word_for_a_list_is_a_list_of_one(conf):
    (conf / "base.yaml").write_text(BASE + "frozen: []\nsizes: [1, 2]\n")
    text = resolve(compose(conf / "base.yaml"), {"frozen": "encoder", "sizes": 3})
    assert plain(text)["frozen"] == ["encoder"] and plain(text)["sizes"] == [3]
    assert plain(resolve(compose(conf / "base.yaml"), {"frozen": ["a", "b"], "sizes": None}))["frozen"] == ["a", "b"]


def test_older_words_are_understood():
    quant = "losses:\n  terms:\n    quant: !new:pscodec.losses.quantization.Quantization\n"
    old = f"residual_dropout: 0.5\nvoiceprint: none\n{quant}"
    term = {"class": "!new:pscodec.losses.base.ModelLoss", "name": "quant"}
    assert as_now(plain(old)) == {"n_q_dropout": 0.5, "losses": {"terms": {"quant": term}}}
