#!/usr/bin/env bash
# Speech from text and a voice's prompt: VALL-E on the codes of any codec, from nothing to scores.
#
#   bash run.sh                                              one voice of the mini corpus, on a CPU, all stages
#   bash run.sh --stage 5 --stop-stage 7                     speak, score and report again
#   bash run.sh --corpus libritts --codec EXP --ngpu 8       zero-shot, as published
#   bash run.sh --corpus /my/voice --preset voice --units phonemes --aligned true   an hour or two of one voice, on a CPU:
#                                                            a folder of speaker folders, a .txt beside each recording
#   bash run.sh --corpus ljspeech --units phonemes           phonemes by espeak-ng
#   bash run.sh --stage 7 --exp exp/A --compare exp/B        two codecs in one table, as TiCodec's Table 3
#
# The mini corpus has a quarter of an hour of one voice: it shows that all parts work, and speaks little that one would understand.
#
# Stages
#   0 corpus on disk   1 data dirs, no text in two of them   2 text units and codes; durations   3 train the first model
#   4 train the second one, of the other codebooks   5 speak   6 score   7 report
#
# Options
#   --stage N, --stop-stage N      first and last stage                                          (0, 7)
#   --corpus NAME                  mini | libritts | ljspeech | a folder | none: your own data dirs with a file text  (mini)
#   --codec EXP[:K]                an experiment or a released codec's name, and how many codebooks  (pscodec_small_24k:1)
#   --units NAME                   pieces | characters | phonemes: of texts                      (mini: characters, else pieces)
#   --n-pieces N                   pieces at most                                                (mini: 200, else 2000)
#   --language NAME                of phonemes, espeak-ng's name of it                           (en-us)
#   --aligned true|false           tell each frame the unit that it speaks: little data does not teach that  (mini: true, else false)
#   --preset NAME                  conf/presets/NAME.yaml laid over conf/*.yaml; paper: nothing is   (mini for mini, else paper)
#   --exp DIR                      the experiment                                                (exp/CODEC_CORPUS)
#   --data DIR, --downloads DIR    where data dirs and corpora are                               (data/CORPUS, the codec recipe's downloads)
#   --train-set, --dev-set, --test-sets "A B"   names of data dirs in --data
#   --train-args "...", --nar-args "..."   options for train.py in stages 3 and 4, last word over preset; any scalar of conf/base.yaml
#                                  (--optimizer_name scaled_adam: with Eden's rates, as in lifeiteng's code)
#   --speak-args "..."             options for pscodec.bin.synthesise: --temperature, --candidates ...
#   --metrics "..."                of stage 6                                                    ("wer cer secs secs_ge2e")
#   --whisper NAME                 what hears words: tiny.en, base, or a folder                  (tiny.en)
#   --compare "EXP EXP"            other experiments for the tables of stage 7
#   --listening "FILE FILE"        what pscodec listening-results --json wrote, for MOS and SMOS in the tables; [SPLIT=]FILE
#   --checkpoint best|last         what stage 5 speaks with                                      (best)
#   --nj N                         processes                                                     (all cores)
#   --ngpu N                       GPUs; stages 3 to 6 share their work over so many processes   (1)

set -euo pipefail
cd "$(dirname "$0")"

stage=0
stop_stage=7
corpus=mini
codec=pscodec_small_24k:1
units=
n_pieces=
language=en-us
aligned=
preset=
exp=
data=
downloads=../codec/downloads
train_set=
dev_set=
test_sets=
train_args=
nar_args=
speak_args=
metrics="wer cer secs secs_ge2e"
whisper=tiny.en
compare=
listening=
checkpoint=best
nj=$(nproc)
ngpu=1
. ../../../tools/parse_options.sh
fail() { echo "error: run.sh: $*" >&2; exit 1; }
[ $# -eq 0 ] || fail "unexpected argument '$1' (--help lists the options)"

name=$corpus tests=test small=false
case $corpus in
    mini) small=true ;;
    libritts) tests="test_clean test_other" ;;
    ljspeech) ;;
    none) name=own ;;
    *) name=$(basename "$corpus"); [ -d "$corpus" ] || fail "no corpus '$corpus': mini, libritts, ljspeech, none, or a folder" ;;
esac
either() { [ "$small" = true ] && echo "$1" || echo "$2"; }   # of the mini corpus, of others
preset=${preset:-$(either mini paper)}
units=${units:-$(either characters pieces)}
n_pieces=${n_pieces:-$(either 200 2000)}
aligned=${aligned:-$(either true false)}
books=() codec_exp=${codec%:*} codec_name=$(basename "$codec" | tr : _)
[[ $codec != *:* ]] || books=(--n-q "${codec##*:}")
data=${data:-data/$name}
exp=${exp:-exp/${codec_name}_$name}
train_set=${train_set:-train}
dev_set=${dev_set:-dev}
test_sets=${test_sets:-$tests}
campplus=$downloads/campplus/campplus_cn_en_common.pt
text_units=$data/units/$units
codes=$data/codes/$codec_name
durations=$data/durations/${codec_name}_$units
presets=()
if [ "$preset" != paper ]; then
    presets=(--preset "conf/presets/$preset.yaml")
    [ -f "${presets[1]}" ] || fail "no preset '$preset': paper $(cd conf/presets && ls | sed 's/\.yaml$//' | tr '\n' ' ')"
fi
[[ $aligned =~ ^(true|false)$ ]] || fail "--aligned takes true or false, not '$aligned'"

. ../../../tools/env.sh
local=../local
at() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] && printf '\n== stage %s: %s   [%d:%02d]\n' "$1" "$2" $((SECONDS / 60)) $((SECONDS % 60)); }
launch() { # [-m] program [options]
    local launcher=()
    [ "$ngpu" -le 1 ] || launcher=(-m torch.distributed.run --standalone --nproc_per_node "$ngpu")
    "$PYTHON" "${launcher[@]}" "$@"
}
train() { # config experiment [options]
    local config=$1 into=$2; shift 2
    launch train.py "conf/$config.yaml" --exp "$into" --codec "$codec_exp" --units "$text_units" \
        --train_dir "$data/$train_set" --train_codes "$codes/$train_set" --dev_dir "$data/$dev_set" --dev_codes "$codes/$dev_set" "$@"
}

if at 0 "corpus ($corpus)"; then
    [ "$corpus" = none ] || "$PYTHON" $local/download.py --corpus "$corpus" --downloads "$downloads"
fi

if at 1 "data dirs in $data"; then
    if [ "$corpus" = none ]; then
        dirs=(); for split in $train_set $dev_set $test_sets; do dirs+=("$data/$split"); done
        "$PYTHON" $local/prepare_data.py --validate "${dirs[@]}" --add-prompts
    else
        voices=(); [ "$corpus" != mini ] || voices=(--voices en_US_f_Allison)
        "$PYTHON" $local/prepare_data.py --corpus "$corpus" --downloads "$downloads" --data "$data" --nj "$nj" --by-text "${voices[@]}"
    fi
fi

if at 2 "text units and codes of $codec"; then
    "$PYTHON" -m pscodec.bin.text_units --data-dir "$data/$train_set" --kind "$units" --size "$n_pieces" --language "$language" --out "$text_units"
    for split in $train_set $dev_set; do
        "$PYTHON" -m pscodec.bin.dump_codes --exp "$codec_exp" --data-dir "$data/$split" --out "$codes/$split" "${books[@]}"
    done
    if [ "$aligned" = true ]; then
        train aligner "$durations/aligner"   # small as it is: no preset
        for split in train dev; do
            set=${split}_set
            "$PYTHON" -m pscodec.bin.align --exp "$durations/aligner" --data-dir "$data/${!set}" --codes "$codes/${!set}" --out "$durations/$split"
        done
    fi
fi

told=()
[ "$aligned" = false ] || told=(--aligned true --durations "$durations")

if at 3 "train the first model (preset $preset) into $exp/ar"; then
    # shellcheck disable=SC2086  # train_args is a list of words
    train base "$exp/ar" "${presets[@]}" "${told[@]}" $train_args
fi

if at 4 "train the second model into $exp/nar"; then
    if grep -q '^n_q: 1$' "$exp/ar/hyperparams.yaml"; then
        echo "codes of one codebook need none"
    else
        # shellcheck disable=SC2086  # nar_args is a list of words
        train nar "$exp/nar" "${presets[@]}" $nar_args
    fi
fi

if at 5 "speak ($test_sets)"; then
    # shellcheck disable=SC2086  # speak_args is a list of words
    launch -m pscodec.bin.synthesise --exp "$exp" --data "$data" --splits "$test_sets" --codec "$codec_exp" --checkpoint "$checkpoint" $speak_args
fi

if at 6 "score"; then
    launch -m pscodec.bin.evaluate --exp "$exp" --data "$data" --splits "$test_sets" --against prompt --metrics "$metrics" \
        --campplus "$campplus" --whisper "$whisper" --nj $(((nj + ngpu - 1) / ngpu))
fi

if at 7 "report"; then
    others=()
    for other in $compare; do others+=(--exp "$other"); done
    for file in $listening; do others+=(--listening "$file"); done
    "$PYTHON" -m pscodec.bin.report --exp "$exp" "${others[@]}" --data "$data" --paper paper/table3.tsv --out "$exp/report"
fi
