"""The shell tools, run as users run them."""

import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
SCRIPT = """#!/usr/bin/env bash
# A script for trying.
#
#   --stage N        first stage
set -euo pipefail
# not part of the help
stage=0
compress=false
name=
train_args=
. "{tools}/parse_options.sh"
echo "$stage|$compress|$name|$train_args|$*"
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "walk.sh"
    path.write_text(SCRIPT.format(tools=TOOLS))
    return lambda *args: subprocess.run(["bash", path, *args], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("args", "printed"),
    [
        ([], "0|false|||"),
        (["--stage", "3"], "3|false|||"),
        (["--stage=3", "--compress=true"], "3|true|||"),
        (["--train-args", "--debug --lr=1"], "0|false||--debug --lr=1|"),
        (["--name", "two words", "left", "--stage", "1"], "0|false|two words||left --stage 1"),
        (["--name=a=b", "--", "--stage"], "0|false|a=b||--stage"),
        (["--stage", "1", "--stage", "2"], "2|false|||"),
        (["--name", ""], "0|false|||"),
        (["--stage", "-1"], "-1|false|||"),
    ],
)
def test_options_set_their_variables(script, args, printed):
    done = script(*args)
    assert (done.returncode, done.stdout, done.stderr) == (0, printed + "\n", "")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--stag", "3"], "unknown option --stag"),
        (["--stag=3"], "unknown option --stag "),
        (["-stage", "3"], "unknown option -stage"),
        (["--PATH", "x"], "unknown option --PATH"),
        (["--a;b", "x"], "unknown option --a;b"),
        (["--stage"], "--stage needs a value"),
        (["--name", "--stage", "1"], "--name needs a value"),
        (["--compress", "yes"], "--compress takes true or false, not 'yes'"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(script, args, told):
    done = script(*args)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: walk.sh: ") and told in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_is_the_comment_at_the_head(script):
    done = script("--help")
    assert done.returncode == 0
    assert done.stdout == "A script for trying.\n\n  --stage N        first stage\n"


def test_help_of_a_script_that_goes_to_its_own_folder_is_found_from_any_other():
    recipe = "recipes/LibriTTS/codec/run.sh"
    done = subprocess.run(["bash", recipe, "--help"], capture_output=True, text=True, cwd=TOOLS.parent)
    assert done.returncode == 0 and "--stop-stage" in done.stdout


INSTALL = """
echo installing
PSCODEC_INSTALLING=yes
. tools/env.sh
pscodec_stamp >"$PSCODEC_ENV/pscodec.installed"
"""


@pytest.fixture
def clone(tmp_path):
    """A clone whose install.sh only says so and leaves its stamp, and an environment whose python agrees to all."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "tools/env.sh").write_text((TOOLS / "env.sh").read_text())
    (tmp_path / "tools/install.sh").write_text(INSTALL)
    for name in ("setup.py", "constraints.txt"):
        (tmp_path / name).write_text("one\n")
    python = tmp_path / "env/bin/python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    return tmp_path


def set_up(clone):
    environ = {"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": str(clone / "env")}
    command = ["bash", "-euc", '. tools/env.sh; echo "$PYTHON"']
    return subprocess.run(command, cwd=clone, env=environ, capture_output=True, text=True)


def test_installation_is_called_once_and_again_when_requirements_change(clone):
    python = f"{clone}/env/bin/python\n"
    assert set_up(clone).stdout == "installing\n" + python
    assert set_up(clone).stdout == python
    (clone / "constraints.txt").write_text("two\n")
    assert set_up(clone).stdout == "installing\n" + python
    assert set_up(clone).stdout == python


def test_a_failed_installation_stops_the_caller(clone):
    (clone / "tools/install.sh").write_text("exit 1\n")
    done = set_up(clone)
    assert (done.returncode, done.stdout) == (1, "")
