#!/usr/bin/env bash
# From nothing to a scored neural speech codec.
#
#   bash run.sh                                          the mini corpus on a CPU, all stages
#   bash run.sh --stage 3                                from training to the end
#   bash run.sh --stage 5 --stop-stage 7                 decode, score and report again
#   bash run.sh --corpus libritts --ngpu 8               the paper's training (500 k steps)
#   bash run.sh --corpus /my/recordings --preset mini    a folder of speaker folders
#   bash run.sh --config conf/pscodec_drl_ict.yaml       PSCodec-DRL-ICT: the Base, then again with DRL
#   bash run.sh --train-args "--n_residual 2 --lr 5e-4"  any scalar of conf/base.yaml
#
# Stages
#   0 corpus on disk   1 data dirs   2 features   3 train   4 train again   5 code and decode   6 score   7 report
#   A configuration that names a parent (conf/pscodec_drl_ict.yaml) has the parent trained in stage 3, itself in stage 4.
#
# Options
#   --stage N, --stop-stage N      first and last stage                                          (0, 7)
#   --corpus NAME                  mini | libritts | ljspeech, vctk, aishell3 (tests only) | a folder | none: your own data dirs  (mini)
#   --test-speakers N              speakers of a folder kept for test                            (a twentieth)
#   --max-dev N                    utterances of dev at most, speakers taking turns              (mini: 40, else all)
#   --parts LIST                   parts of LibriTTS, comma separated                            (all)
#   --config FILE                  the codec, or what of it differs                              (mini: conf/pscodec_frames.yaml, else conf/pscodec_base.yaml)
#   --preset NAME                  conf/presets/NAME.yaml laid over it; paper: nothing is        (mini: frames for conf/pscodec_frames.yaml,
#                                  mini for others; else paper)
#   --exp DIR                      the experiment                                                (exp/CONFIG_CORPUS)
#   --data DIR, --downloads DIR    where data dirs and corpora are                               (data/CORPUS, downloads)
#   --train-set, --dev-set, --test-sets "A B"   names of data dirs in --data
#   --train-args "..."             options for train.py, last word over config and preset
#   --first-args "..."             the same of the first training alone, of a codec that is trained twice (--train-args)
#   --init DIR                     start from that experiment's codec and discriminators
#   --parent DIR                   first training of a codec that is trained twice               (exp/PARENT_CORPUS, by stage 3)
#   --controls "A B"               test sets to decode with shuffled codes and a wrong prompt, too  (mini, a folder and none: test; else none)
#   --prompts "A B"                test sets to decode with other prompts too: the utterance's own, 3 s, 1 s, a wrong
#                                  speaker's, noise, none; the report compares them              (none)
#   --entropy true|false           after training, train a language model of the codec's codes into EXP/entropy, and entropy
#                                  code in stage 5, which then says what that saves               (false)
#   --entropy-args "..."           options for train_language.py                                 (none)
#   --side-tokens true|false       after training, learn few tokens for what prompts send (bin/learn_side); stage 5 sends these
#                                                                                                (mini: true for conf/pscodec_frames.yaml, else false)
#   --decode-args "..."            options for bin/decode in stage 5: --sampler dpm --steps 10 of LaDiffCodec    (none)
#   --checkpoint best|last         what stage 5 decodes                                          (best)
#   --compare "A B:1"              codecs for stages 5 to 7 beside this one: experiments or released ones; :K, of K codebooks
#                                  (mini: pscodec_small_24k_v2:1, which comes with the package; else none); without DNSMOS and words
#   --words N                      test utterances a set whose words Whisper hears, for WER and CER (mini: 12, spread evenly; else all)
#   --dnsmos N                     test utterances a set that DNSMOS scores, likewise              (mini: 10, else all)
#   --metrics "pesq stoi ..."      scores of stage 6; bin/evaluate --help names them                (all that have what they need)
#   --whisper NAME                 base | tiny.en (English alone) | a folder with a model for CTranslate2       (base)
#   --utmos FILE                   TorchScript model for UTMOS, [1, L] at 16 kHz -> score; utmos_scripted.pt of
#                                  UTMOS-PyTorch is one, torch.jit.save writes one of a model of yours   (none)
#   --allow-pipes true|false       run commands that a wav.scp of yours holds                    (false)
#   --nj N                         processes for features, coding (on a CPU) and scores, in all  (all cores)
#   --ngpu N                       GPUs; stages 2 to 6 share their work over so many processes   (1)
#                                  (without a GPU, on the CPU); several nodes: slurm.sh

set -euo pipefail
cd "$(dirname "$0")"

stage=0
stop_stage=7
corpus=mini
parts=
test_speakers=
max_dev=
side_tokens=
config=
preset=
exp=
data=
downloads=downloads
train_set=
dev_set=
test_sets=
train_args=
first_args=unset
init=
parent=
controls=unset
prompts=
entropy=false
entropy_args=
decode_args=
checkpoint=best
compare=unset
words=
dnsmos=
metrics=
whisper=base
utmos=
allow_pipes=false
nj=$(nproc)
ngpu=1
. ../../../tools/parse_options.sh
[ $# -eq 0 ] || { echo "error: run.sh: unexpected argument '$1' (--help lists the options)" >&2; exit 1; }

name=$corpus tests=test wrong=test others= tests_alone=false
case $corpus in
    mini) tests="test test_unseen" others=pscodec_small_24k_v2:1 words=${words:-12} dnsmos=${dnsmos:-10} ;;
    libritts) tests="test_clean test_other" wrong= ;;
    ljspeech | vctk | aishell3) tests=test_$corpus wrong= tests_alone=true ;;
    none) name=own ;;
    *) name=$(basename "$corpus"); [ -d "$corpus" ] || { echo "error: no corpus '$corpus': mini, libritts, ljspeech, vctk, aishell3, none, or a folder" >&2; exit 1; } ;;
esac
[ "$compare" = unset ] || others=$compare
[ "$controls" != unset ] || controls=$wrong
if [ "$corpus" = mini ]; then
    config=${config:-conf/pscodec_frames.yaml}
    if [ "$(basename "$config")" = pscodec_frames.yaml ]; then
        preset=${preset:-frames} side_tokens=${side_tokens:-true}
    else
        preset=${preset:-mini}
    fi
fi
config=${config:-conf/pscodec_base.yaml}
preset=${preset:-paper}
data=${data:-data/$name}
exp=${exp:-exp/$(basename "$config" .yaml)_$name}
train_set=${train_set:-train}
dev_set=${dev_set:-dev}
test_sets=${test_sets:-$tests}
campplus=$downloads/campplus/campplus_cn_en_common.pt
presets=()
if [ "$preset" != paper ]; then
    presets=(--preset "conf/presets/$preset.yaml")
    [ -f "${presets[1]}" ] || { echo "error: no preset '$preset': paper $(cd conf/presets && ls | sed 's/\.yaml$//' | tr '\n' ' ')" >&2; exit 1; }
fi
[ -f "$config" ] || { echo "error: no configuration $config" >&2; exit 1; }
pipes=()
[ "$allow_pipes" = false ] || pipes=(--allow-pipes)

. ../../../tools/env.sh

first_config=$("$PYTHON" -m pscodec.utils.hparams "$config" parent)   # of the training that stage 4 goes on from
own_parent=$parent
if [ -n "$first_config" ]; then
    first_config=$(dirname "$config")/$first_config
    parent=${parent:-exp/$(basename "$first_config" .yaml)_$name}
elif [ -n "$parent" ]; then
    echo "error: --parent is for a codec that is trained twice; $config names no parent" >&2; exit 1
fi

launch() { # [-m] program [options]
    local launcher=()
    [ "$ngpu" -le 1 ] || launcher=(-m torch.distributed.run --standalone --nproc_per_node "$ngpu")
    "$PYTHON" "${launcher[@]}" "$@"
}
nj_each=$(((nj + ngpu - 1) / ngpu))

at() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] && printf '\n== stage %s: %s   [%s]\n' "$1" "$2" "$(elapsed)"; }
elapsed() { printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)); }   # minutes and seconds since the start

if at 0 "corpus ($corpus)"; then
    download=(--downloads "$downloads")
    [ -z "$parts" ] || download+=(--parts "$parts")
    "$PYTHON" ../local/download.py --corpus "$corpus" "${download[@]}"
fi

if at 1 "data dirs in $data"; then
    if [ "$corpus" = none ]; then
        dirs=(); for split in $train_set $dev_set $test_sets; do dirs+=("$data/$split"); done
        "$PYTHON" ../local/prepare_data.py --validate "${dirs[@]}" --add-prompts "${pipes[@]}"
    else
        "$PYTHON" ../local/prepare_data.py --corpus "$corpus" --downloads "$downloads" --data "$data" --nj "$nj" \
            ${test_speakers:+--test-speakers "$test_speakers"} ${max_dev:+--max-dev "$max_dev"}
    fi
fi

if at 2 "features"; then
    dirs=()
    for split in $train_set $dev_set $test_sets; do [ ! -d "$data/$split" ] || dirs+=("$data/$split"); done
    launch -m pscodec.bin.extract_features --data-dir "${dirs[@]}" --config "$config" "${presets[@]}" --train-args="$train_args" \
        --campplus "$campplus" --nj "$nj_each" "${pipes[@]}"
fi

train() { # config experiment [options]
    local config=$1 into=$2; shift 2
    launch train.py "$config" "${presets[@]}" --exp "$into" --train_dir "$data/$train_set" --dev_dir "$data/$dev_set" \
        --campplus "$campplus" "$@"
}

if at 3 "train ${first_config:-$config} (preset $preset) into ${parent:-$exp}"; then
    if [ "$tests_alone" = true ]; then
        echo "$corpus is a test corpus: nothing to train (--exp names the codec to test)"
    elif [ -n "$own_parent" ]; then
        echo "the first training is given: $parent"
    else
        words_of_first=$train_args
        [ -z "$first_config" ] || [ "$first_args" = unset ] || words_of_first=$first_args
        # shellcheck disable=SC2086  # a list of words
        train "${first_config:-$config}" "${parent:-$exp}" ${init:+--init "$init"} $words_of_first
    fi
fi

if at 4 "train again ($config into $exp)"; then
    if [ -z "$first_config" ] || [ "$tests_alone" = true ]; then
        echo "no second training is configured for $(basename "$config")"
    else
        # shellcheck disable=SC2086  # train_args is a list of words
        train "$config" "$exp" --parent "$parent" $train_args
    fi
fi

if [ "$entropy" = true ] && [ "$tests_alone" = false ] && [ "$stage" -le 4 ] && [ "$stop_stage" -ge 4 ]; then
    printf '\n== stage 4, language model of the codes   [%s]\n' "$(elapsed)"
    for split in $train_set $dev_set; do
        "$PYTHON" -m pscodec.bin.dump_codes --exp "$exp" --data-dir "$data/$split" --out "$exp/codes/$split" \
            --checkpoint "$checkpoint" "${pipes[@]}"
    done
    smaller=()
    [ "$preset" = paper ] || smaller=(--preset conf/language/mini.yaml)
    # shellcheck disable=SC2086  # entropy_args is a list of words
    launch train_language.py conf/language/base.yaml "${smaller[@]}" --exp "$exp/entropy" \
        --train_codes "$exp/codes/$train_set" --dev_codes "$exp/codes/$dev_set" $entropy_args
fi

beside() { echo "$exp/compare/$(basename "$1" | tr : _)"; }   # an experiment to stages 6 and 7: decoded speech and scores
compared=()
for other in $others; do compared+=("$(beside "$other")"); done

if at 5 "code and decode ($test_sets)"; then
    if [ "$side_tokens" = true ]; then
        "$PYTHON" -m pscodec.bin.learn_side --exp "$exp" --data-dir "$data/$train_set" --held-out "$data/$dev_set" --checkpoint "$checkpoint" "${pipes[@]}"
    fi
    decode() { launch -m pscodec.bin.decode --data "$data" --splits "$test_sets" --nj "$nj_each" "${pipes[@]}" "$@"; }
    coded=()
    [ "$entropy" = false ] || coded=(--entropy auto)
    # shellcheck disable=SC2086  # decode_args is a list of words
    decode --exp "$exp" --controls "$controls" --prompts "$prompts" --checkpoint "$checkpoint" "${coded[@]}" $decode_args
    if [ "$entropy" = true ]; then
        for split in $test_sets; do
            "$PYTHON" -m pscodec.bin.savings --exp "$exp" --psc "$exp/decode/$split/psc" --checkpoint "$checkpoint"
        done
    fi
    for other in $others; do
        books=()
        [[ $other != *:* ]] || books=(--n-q "${other##*:}")
        decode --exp "${other%:*}" --out "$(beside "$other")" "${books[@]}"
    done
fi

if at 6 "score"; then
    evaluate() {
        launch -m pscodec.bin.evaluate --data "$data" --splits "$test_sets" --campplus "$campplus" --whisper "$whisper" \
            ${utmos:+--utmos "$utmos"} ${words:+--words "$words"} ${dnsmos:+--dnsmos "$dnsmos"} --nj "$nj_each" "${pipes[@]}" "$@"
    }
    evaluate --exp "$exp" ${metrics:+--metrics "$metrics"}
    for folder in "${compared[@]}"; do   # DNSMOS and words, most of the time that scores take, are left to the codec that this run is about
        evaluate --exp "$folder" --metrics "${metrics:-pesq stoi visqol ${utmos:+utmos} si_snr mcd mcd_linear secs secs_ge2e}"
    done
fi

if at 7 "report"; then
    "$PYTHON" -m pscodec.bin.report --exp "$exp" "${compared[@]/#/--exp=}" --data "$data" --paper paper/table1.tsv --out "$exp/report" "${pipes[@]}"
fi
