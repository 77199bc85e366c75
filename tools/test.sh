#!/usr/bin/env bash
# Set up, check the style, run every test.
#
#   bash tools/test.sh                     all of it
#   bash tools/test.sh tests/test_x.py -x  what follows goes to pytest

set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$PSCODEC_ROOT"
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest -q --durations=10 "$@"
