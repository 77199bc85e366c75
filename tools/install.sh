#!/usr/bin/env bash
# Install this clone of pscodec, with all it needs, into the active environment or else into .venv in the clone.
#
#   bash tools/install.sh
#
# Needs Python 3.10 or newer with its headers, pip 22.3 or newer and a C compiler (one dependency is built from
# source); as root, what is missing is installed by apt-get. Done once, it is not done again: a change of setup.py or
# constraints.txt makes it due. Interrupted, it goes on where it was. A log is kept beside the environment's files.

set -euo pipefail
case "${1:-}" in
    "") ;;
    -h | --help) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit 0 ;;
    *) echo "error: tools/install.sh takes no option: $1" >&2; exit 1 ;;
esac

PSCODEC_INSTALLING=yes
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$PSCODEC_ROOT"
STAMP=$PSCODEC_ENV/pscodec.installed
if pscodec_installed; then
    echo "pscodec is installed in $PSCODEC_ENV"
    exit 0
fi

say() { echo "[install] $*" >&2; }
fail() { echo "error: $*" >&2; exit 1; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

# A Python that is new enough.
find_python() {
    local candidate
    for candidate in python3 /usr/bin/python3 python3.{14,13,12,11,10}; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# A Python whose pip can work for another Python: the environment need not have one of its own.
find_pip() {
    local candidate
    for candidate in "$BASE" python3 /usr/bin/python3; do
        if "$candidate" -m pip --python "$BASE" --version >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

has_compiler() {
    echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 ||
        echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1
}

has_headers() {
    "$BASE" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}

# Fills BASE and PIP_PYTHON, and names in MISSING what this machine lacks, in PACKAGES Debian's packages of it.
look_around() {
    MISSING=() PACKAGES=()
    if [ $OWN = no ]; then
        BASE=$PYTHON
        new_enough "$BASE" || fail "the active environment $PSCODEC_ENV has no Python 3.10 or newer"
    elif ! BASE=$(find_python); then
        MISSING+=("Python 3.10 or newer") PACKAGES+=(python3 python3-dev python3-pip)
    fi
    has_compiler || { MISSING+=("a C compiler (gcc)") && PACKAGES+=(gcc libc6-dev); }
    [ -n "$BASE" ] || return 0
    has_headers || { MISSING+=("Python.h, the headers of $BASE") && PACKAGES+=(python3-dev); }
    PIP_PYTHON=$(find_pip) || { MISSING+=("pip 22.3 or newer for $BASE") && PACKAGES+=(python3-pip); }
}

make_environment() {
    say "making $PSCODEC_ENV with $BASE"
    if "$BASE" -c "import venv" 2>/dev/null; then
        "$BASE" -m venv --clear --without-pip "$PSCODEC_ENV"
        return
    fi
    say "this Python has no venv module; taking virtualenv"
    "$PIP_PYTHON" -m pip --python "$BASE" install -q --target "$PSCODEC_ENV.tmp" virtualenv &&
        PYTHONPATH="$PSCODEC_ENV.tmp" "$BASE" -m virtualenv -q --clear --no-pip "$PSCODEC_ENV" &&
        rm -rf "$PSCODEC_ENV.tmp"
}

# --- the system's part
OWN=no
[ "$PSCODEC_ENV" != "$PSCODEC_ROOT/.venv" ] || OWN=yes
look_around
if [ ${#MISSING[@]} -gt 0 ]; then
    printf '[install] missing: %s\n' "${MISSING[@]}" >&2
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || fail "install first (on Debian: apt-get install ${PACKAGES[*]})"
    say "apt-get install ${PACKAGES[*]}"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${PACKAGES[@]}"; } >&2 ||
        fail "apt-get could not install ${PACKAGES[*]}"
    look_around
    [ ${#MISSING[@]} = 0 ] || fail "still missing: ${MISSING[0]}"
fi

# --- the environment
if ! new_enough "$PYTHON"; then
    [ -w "$PSCODEC_ROOT" ] || fail "$PSCODEC_ROOT is not writable, so it cannot hold .venv; activate an environment of yours"
    make_environment || fail "could not make $PSCODEC_ENV"
fi
PIP=("$PIP_PYTHON" -m pip --python "$PYTHON")
rm -f "$STAMP"
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_REQUIRE_VIRTUALENV=0
LOG=$PSCODEC_ENV/pscodec.install.log
# --use-pep517: a package without wheels is built apart, where its build tools are fetched; the environment has no pip.
install() {
    "${PIP[@]}" install --use-pep517 --log "$LOG" "$@" ||
        fail "pip could not install; the log is $LOG; call this again to go on"
}

# --- torch first and with its version: without one pip takes several GB of CUDA packages. The user's own stays.
PINS=$PSCODEC_ENV/pscodec.constraints
torch_is() { "$PYTHON" -c "import sys, torch; sys.exit(not ($1))" 2>/dev/null; }
if [ $OWN = no ] && torch_is "tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 11)"; then
    say "the torch of this environment stays"
    grep -v '^torch' constraints.txt >"$PINS"
    TORCH=
else
    cp constraints.txt "$PINS"
    TORCH=$(sed -n 's/^\(torch==[^; ]*\).*/\1/p' constraints.txt)
    say "$TORCH"
    install "$TORCH" -c "$PINS"
fi
# --no-deps: torchaudio's metadata must not move torch.
if [ -n "$TORCH" ] || ! "${PIP[@]}" show -q torchaudio 2>/dev/null; then
    install --no-deps "$(sed -n 's/^\(torchaudio==[^; ]*\).*/\1/p' constraints.txt)"
fi
# The compiled part of torchaudio wants CUDA libraries, which a CPU-only torch does not bring; the rest is pure torch.
if ! "$PYTHON" -c "import torchaudio" 2>/dev/null && torch_is "not (torch.version.cuda or torch.version.hip)"; then
    say "torch is a CPU-only build: leaving out torchaudio's compiled extension"
    PACKAGES=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
    rm -f "$PACKAGES"/torchaudio/lib/*.so
fi

# --- everything else
say "pscodec and its requirements"
install -e ".[all]" -c "$PINS"
# Of these a part is used alone: of Resemblyzer the weights; of diffsptk, by the tests, what needs torch.
say "packages without what they ask for"
install --no-deps "Resemblyzer" "diffsptk" -c "$PINS"
(cd / && "$PYTHON" -c "import pscodec, torch, torchaudio, speechbrain, hyperpyyaml, kaldiio, pesq, pystoi, soundfile") ||
    fail "the installation does not import; the log is $LOG$([ $OWN = no ] || echo "; remove .venv to begin anew")"
pscodec_stamp >"$STAMP"
say "done: $PYTHON"
