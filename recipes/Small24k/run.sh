#!/usr/bin/env bash
# Train pscodec_small_24k, the first codec that came with the package, and score it on speakers it never heard.
#
#   python collect.py --speechocean762 DIR --resemblyzer DIR --rhasspy VOICE=DIR ... --out CORPUS   (README.md: where from)
#   bash run.sh --corpus "$PWD/CORPUS"
#   bash run.sh --corpus "$PWD/CORPUS" --stage 5 --checkpoint last        every option of ../LibriTTS/codec/run.sh
#
# Afterwards `python -m pscodec.bin.release --exp exp/pscodec_small_24k --out ../../pscodec/weights/pscodec_small_24k --half --discriminators`.

set -euo pipefail
case " $* " in *" --help "* | *" -h "*) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "$(dirname "$0")"
here=../../Small24k
exec bash ../LibriTTS/codec/run.sh --config $here/conf/pscodec_small_24k.yaml --preset paper --test-speakers 40 --max-dev 120 \
    --exp $here/exp/pscodec_small_24k --data $here/data --downloads ../../LibriTTS/codec/downloads "$@"
