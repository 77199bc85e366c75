#!/usr/bin/env bash
# Tables I-V and figure 7 of the PSCodec paper (or another's), with ours beside: trains what is missing, scores it, prints.
#
#   bash tables.sh --dry-run                            what would be done, and its cost
#   bash tables.sh                                      all systems on the mini corpus, overnight on two cores
#   bash tables.sh --tables "I III" --n-q 1             some tables, one codebook
#   bash tables.sh --rows "base casan" --budget 1000    some systems, 1,000 steps each
#   bash tables.sh --rows "base casan" --n-q 1 --seeds "0 1"    each trained twice: the mean over seeds, and each by itself
#   bash tables.sh --corpus libritts --run-args "--ngpu 8"
#   bash tables.sh --paper ticodec                      those of the TiCodec paper (1, 2)
#   bash tables.sh --paper encodec --tables "1 2"       those of the EnCodec paper (1 to 5)
#   bash tables.sh --paper ladiffcodec --tables "samplers 4" --exp EXP    of the LaDiffCodec paper (1, figure 4), and of one model
#
# Writes OUT/tables.md and tables.tsv, figure7.*, an experiment a row (OUT/ROW_Nq[_seedS]) and the scores they gave (OUT/scores);
# of encodec and ladiffcodec OUT/tables.md, of the latter figure4.png.
# Called again it goes on: rows that are done are skipped, one that was interrupted continues. A row that fails does not
# stop the others; at the end it is named and the status is 1. What is not there is printed as "-".
#
# Options
#   --paper NAME        pscodec | ticodec                                                   (pscodec)
#                       | encodec, whose --budget is the steps of each row, its language model's in proportion
#                       | ladiffcodec, which has more options: python tables/ladiffcodec_tables.py --help
#   --corpus NAME       mini | libritts (and ljspeech for table II, aishell3 and vctk for TiCodec's 2) | a folder   (mini)
#   --tables "I II"     tables to fill and print                                            (I II III IV V; 1 2 ...)
#   --rows "base ..."   rows of paper/[NAME/]systems.tsv to train, with their parents       (those of the tables)
#   --n-q "1 2"         numbers of codebooks, each trained for that one; of pscodec and ticodec       (1 2; ticodec: 1 2 4)
#   --seeds "0 1"       a training of each row for each of them; of pscodec and ticodec     (0)
#   --budget STEPS      training steps a row and stage, with its schedule in proportion     (the configuration's)
#   --preset NAME       as of run.sh                                                        (mini for mini, else paper)
#   --out DIR           where everything goes                                               (exp/[PAPER_]tables_CORPUS[_BUDGET])
#   --train-args "..."  options for train.py, for every row
#   --run-args "..."    options for run.sh, for every row (--ngpu 8 --nj 4 --utmos FILE ...)
#   --dry-run           print the plan (and its cost) and do nothing; not of ladiffcodec

set -euo pipefail
cd "$(dirname "$0")"
case " $* " in *" --help "* | *" -h "*) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$(basename "$0")"; exit 0 ;; esac
. ../../../tools/env.sh
paper=pscodec words=()
while [ $# -gt 0 ]; do
    case $1 in
        --paper) paper=${2:-}; shift ;;
        --paper=*) paper=${1#*=} ;;
        *) words+=("$1") ;;
    esac
    [ $# -eq 0 ] || shift
done
case $paper in
    pscodec | ticodec) program=systems_tables.py words+=(--paper "$paper") ;;
    encodec | ladiffcodec) program=${paper}_tables.py ;;
    *) echo "error: no tables of paper '$paper': pscodec, ticodec, encodec, ladiffcodec" >&2; exit 1 ;;
esac
exec "$PYTHON" "tables/$program" "${words[@]}"
