# Sourced by run.sh, tables.sh, install.sh and test.sh: sets PYTHON to a Python that has this clone's pscodec, installing it first if need be.
#   . tools/env.sh
# The environment is the active one (VIRTUAL_ENV, CONDA_PREFIX), else .venv in the clone. Its programs come first on PATH.

PSCODEC_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PSCODEC_ENV=${VIRTUAL_ENV:-${CONDA_PREFIX:-$PSCODEC_ROOT/.venv}}
PYTHON=$PSCODEC_ENV/bin/python

# What an installation leaves behind when it is whole: which clone, and which requirements it met.
pscodec_stamp() { (cd "$PSCODEC_ROOT" && pwd && cksum setup.py constraints.txt); }

pscodec_installed() {
    [ "$(cat "$PSCODEC_ENV/pscodec.installed" 2>/dev/null)" = "$(pscodec_stamp)" ] &&
        (cd / && "$PYTHON" -c "import pscodec" 2>/dev/null)
}

if [ "${PSCODEC_INSTALLING:-}" != yes ]; then
    pscodec_installed || bash "$PSCODEC_ROOT/tools/install.sh" || exit 1
    export PYTHON PATH="$PSCODEC_ENV/bin:$PATH"
fi
