#!/usr/bin/env bash
# Set up, check the style, run every test: a process a core, four at most, one thread each.
#
#   bash tools/test.sh                         all of it
#   bash tools/test.sh tests/test_x.py -x -n0  what follows goes to pytest; -n0: in this process

set -uo pipefail
case "${1:-}" in -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$PSCODEC_ROOT" || exit 1
"$PYTHON" -m ruff check .
style=$?
"$PYTHON" -m pytest -q --durations=10 -n auto --maxprocesses 4 --dist loadfile "$@"
tests=$?
[ $style = 0 ] || echo "error: ruff has complaints (above the tests)" >&2
exit $((tests ? tests : style))
