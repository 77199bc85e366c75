#!/usr/bin/env bash
# Separates talkers in the embedding space of a neural codec, from nothing to scores.
#
#   bash run.sh                                              our separator on the mini corpus, on a CPU, all stages
#   bash run.sh --config conf/codecformer_el.yaml            Codecformer-EL, the paper's
#   bash run.sh --config conf/codecformer.yaml               the same with the waveform loss
#   bash run.sh --config conf/sepformer.yaml                 SepFormer, which needs no codec
#   bash run.sh --stage 5 --stop-stage 7                     separate, score and report again
#   bash run.sh --wsj0 /ldc/wsj0 --lists my/lists --codec EXP      WSJ0-2mix, as published
#   bash run.sh --corpus /my/recordings --codec EXP          a folder of speaker folders; from ten, test has its own speakers
#   bash run.sh --librispeech DIR --lists metadata/Libri2Mix --codec EXP   Libri2Mix, from its metadata
#   bash run.sh --dynamic true                               new mixtures in every pass
#
# The mini corpus is a closed set: train, dev and test are the same four voices of three people. What is learned on it
# says nothing about talkers that were never heard. --codec takes a codec of your own:
#   bash run.sh --codec ../../LibriTTS/codec/exp/pscodec_frames_mini
#
# Stages
#   0 corpus and codec on disk   1 data dirs and mixtures   2 embeddings   3 train   4 train again (--finetune)
#   5 separate   6 score   7 report
#
# Options
#   --stage N, --stop-stage N      first and last stage                                          (0, 7)
#   --corpus NAME                  mini | libritts | a folder | none: your own data dirs in DATA/clean  (mini)
#   --wsj0 DIR                     WSJ0 (LDC93S6A), .wv1 or .wav                                 (none)
#   --librispeech DIR              LibriSpeech, for LibriMix' lists                              (none)
#   --lists DIR                    published mixing lists (mix_2_spk_tr.txt ..., libri2mix_*.csv); without, drawn ones
#   --n-src 2|3, --mode min|max, --sample-rate 8000|16000   of the mixtures                      (2, min, 8000)
#   --n-train N, --n-dev N, --n-test N   mixtures to draw                          (mini 1000 200 50; else 20000 5000 3000)
#   --by-talker true|false         draw talkers equally often, not utterances; with --dynamic true too   (false)
#   --test-speakers N              speakers of a folder kept for test                            (a twentieth)
#   --dump true|false              write the mixtures as wav too                                 (false)
#   --codec EXP                    the codec: an experiment folder, or the name of a released one (mini: pscodec_small_24k)
#   --config FILE                  the separator                                                 (conf/residual_tcn_el.yaml)
#   --preset NAME                  conf/presets/NAME.yaml laid over it; paper: nothing is        (mini for mini, else paper)
#   --exp DIR                      the experiment                                                (exp/CONFIG_DATA)
#   --data DIR, --downloads DIR    where data dirs and corpora are    (data/CORPUS_2mix_8k_min, the codec recipe's downloads)
#   --train-set, --dev-set, --test-sets "A B"   names of data dirs in --data
#   --embeddings true|false        stage 2, for losses on embeddings of fixed mixtures           (true with *_el.yaml)
#   --dynamic true|false           mix anew in training, at other speeds and levels              (false)
#   --finetune FILE                stage 4: go on with that configuration, into EXP_tuned        (none)
#   --train-args "..."             options for train.py, last word over config and preset
#   --prompts "A B"                for the codec's decoder: estimate | enrol | none              (mini: none; else all three)
#   --output "A B"                 what becomes of separated embeddings: continuous, decoded as they are | quantised, through
#                                  the codebooks first | masked, masks of the mixture, which has the phases  (all three)
#   --ceiling true|false           code and decode the sources themselves, too                   (true)
#   --checkpoint best|last         what stage 5 separates with                                   (best)
#   --order embedding|si_sdr|stoi  what tells which estimate is whose: the distance of the embeddings, or the best order
#                                  of a score. si_sdr is the papers', but a codec that keeps no phases leaves it nothing
#                                  to tell talkers by; separators of waveforms are ordered by it  (embedding)
#   --dnsmos N                     test mixtures a set that DNSMOS scores, spread evenly         (mini: 10; else all)
#   --compare "EXP EXP"            other experiments for the tables of stage 7
#   --nj N                         processes                                                     (all cores)
#   --ngpu N                       GPUs; stages 3 to 6 share their work over so many processes   (1)

set -euo pipefail
cd "$(dirname "$0")"

codec_recipe=../../LibriTTS/codec
stage=0
stop_stage=7
corpus=mini
wsj0=
librispeech=
lists=
n_src=2
mode=min
sample_rate=8000
n_train=
n_dev=
n_test=
by_talker=false
test_speakers=
dump=false
codec=
config=conf/residual_tcn_el.yaml
preset=
exp=
data=
downloads=$codec_recipe/downloads
train_set=
dev_set=
test_sets=
embeddings=
dynamic=false
finetune=
train_args=
prompts=
output="continuous quantised masked"
ceiling=true
checkpoint=best
order=embedding
dnsmos=
compare=
nj=$(nproc)
ngpu=1
. ../../../tools/parse_options.sh
fail() { echo "error: run.sh: $*" >&2; exit 1; }
[[ $sample_rate =~ ^[0-9]+000$ ]] || fail "--sample-rate takes Hz such as 8000 or 16000, not '$sample_rate'"
[ $# -eq 0 ] || fail "unexpected argument '$1' (--help lists the options)"

name=$corpus tests=test numbers=(20000 5000 3000) one_speaker= min_seconds=0
[ -z "$wsj0" ] || corpus=wsj0 name=wsj0
[ -z "$librispeech" ] || corpus=librimix name=librimix
case $corpus in
    mini) numbers=(1000 200 50) one_speaker=en_US_f_Allison,es_MX_f_Allison min_seconds=2 ;;
    wsj0) [ -d "$wsj0" ] || fail "no folder '$wsj0' (--wsj0 DIR, with si_tr_s, si_dt_05 and si_et_05)" ;;
    librimix) [ -d "$librispeech" ] || fail "no folder '$librispeech' (--librispeech DIR)" ;;
    libritts) tests="test_clean test_other" ;;
    none) name=own ;;
    *) name=$(basename "$corpus"); [ -d "$corpus" ] || fail "no corpus '$corpus': mini, libritts, none, or a folder" ;;
esac
preset=${preset:-$([ "$corpus" = mini ] && echo mini || echo paper)}
data=${data:-data/${name}_${n_src}mix_$((sample_rate / 1000))k_$mode}
exp=${exp:-exp/$(basename "$config" .yaml)_$(basename "$data")}
train_set=${train_set:-train}
dev_set=${dev_set:-dev}
test_sets=${test_sets:-$tests}
[ "$corpus" != mini ] || dnsmos=${dnsmos:-10}   # its seconds are most of stage 6
prompts=${prompts:-$([ "$corpus" = mini ] && echo none || echo estimate enrol none)}
presets=()
if [ "$preset" != paper ]; then
    presets=(--preset "conf/presets/$preset.yaml")
    [ -f "${presets[1]}" ] || fail "no preset '$preset': paper $(cd conf/presets && ls | sed 's/\.yaml$//' | tr '\n' ' ')"
fi
for file in "$config" $finetune; do [ -f "$file" ] || fail "no configuration $file"; done
[[ $embeddings =~ ^(true|false)?$ ]] || fail "--embeddings takes true or false, not '$embeddings'"
[ "$dynamic" = true ] || embeddings=${embeddings:-$([[ $config == *_el.yaml ]] && echo true || echo false)}
[ "$dynamic" = false ] || [ "$embeddings" != true ] || fail "--embeddings true needs fixed mixtures, not --dynamic true"

# A separator without a codec says so in its configuration.
grep -q '^codec: null' "$config" && needs_codec=false || needs_codec=true
if [ "$needs_codec" = true ] && [ -z "$codec" ]; then
    [ "$corpus" = mini ] || [ "$stop_stage" -lt 2 ] || fail "--codec names no experiment of a codec"
    [ "$corpus" != mini ] || codec=pscodec_small_24k
fi

. ../../../tools/env.sh
at() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] && printf '\n== stage %s: %s\n' "$1" "$2"; }
local=../local
libri=../../LibriTTS/local
sets=("$train_set:train" "$dev_set:dev")
for split in $test_sets; do sets+=("$split:test"); done

if at 0 "corpus ($corpus) and codec (${codec:-none})"; then
    case $corpus in
        wsj0) "$PYTHON" $local/prepare_sources.py decode --wsj0 "$wsj0" --downloads "$downloads" --nj "$nj" ;;
        librimix | none) ;;
        *) "$PYTHON" $libri/download.py --corpus "$corpus" --downloads "$downloads" --no-campplus ;;
    esac
fi

if at 1 "data dirs and mixtures in $data"; then
    published=()
    [ -z "$lists" ] || published=(--lists "$lists")
    case $corpus in
        wsj0 | librimix)
            source=(--wsj0 "$wsj0")
            [ "$corpus" = wsj0 ] || source=(--librispeech "$librispeech")
            "$PYTHON" $local/prepare_sources.py dirs "${source[@]}" "${published[@]}" --n-src "$n_src" --downloads "$downloads" \
                --data "$data/clean" ;;
        none)
            dirs=(); for set in "${sets[@]}"; do dirs+=("$data/clean/${set%:*}"); done
            "$PYTHON" $libri/prepare_data.py --validate "${dirs[@]}" --add-prompts ;;
        *) "$PYTHON" $libri/prepare_data.py --corpus "$corpus" --downloads "$downloads" --data "$data/clean" --nj "$nj" \
            ${test_speakers:+--test-speakers "$test_speakers"} ;;
    esac
    numbers=("${n_train:-${numbers[0]}}" "${n_dev:-${numbers[1]}}" "${n_test:-${numbers[2]}}")
    how=()
    [ "$dump" = false ] || how+=(--dump)
    [ "$by_talker" = false ] || how+=(--by-talker)
    for set in "${sets[@]}"; do
        case ${set#*:} in train) number=${numbers[0]} ;; dev) number=${numbers[1]} ;; test) number=${numbers[2]} ;; esac
        "$PYTHON" $local/make_mixtures.py --clean "$data/clean/${set%:*}" --out "$data/${set%:*}" --split "${set#*:}" \
            --number "$number" --n-src "$n_src" --mode "$mode" --sample-rate "$sample_rate" --min-seconds "$min_seconds" \
            --one-speaker "$one_speaker" --nj "$nj" "${published[@]}" "${how[@]}"
    done
fi

cached=()
if [ "$embeddings" = true ]; then
    if at 2 "embeddings of $data/$train_set by $codec"; then
        "$PYTHON" -m pscodec.bin.embed --exp "$codec" --data "$data/$train_set"
    fi
    if [ "$stage" -le 3 ] && [ "$stop_stage" -ge 3 ]; then
        cached=(--train_embeddings "$("$PYTHON" -m pscodec.bin.embed --exp "$codec" --data "$data/$train_set" --where)")
    fi
elif at 2 "embeddings"; then
    echo "none are needed: $([ "$dynamic" = true ] && echo 'mixtures are made anew' || echo "$config learns from waveforms")"
fi

launch() { # [-m] program [options]
    local launcher=()
    [ "$ngpu" -le 1 ] || launcher=(-m torch.distributed.run --standalone --nproc_per_node "$ngpu")
    "$PYTHON" "${launcher[@]}" "$@"
}

# train CONFIG EXP OPTION...
train() {
    local config=$1 exp=$2 options=()
    shift 2
    [ "$needs_codec" = false ] || options=(--codec "$codec")
    [ "$dynamic" = false ] || options+=(--dynamic true --speed "[0.95, 1.0, 1.05]" --gain_db 2.5)
    # shellcheck disable=SC2086  # train_args is a list of words
    launch train.py "$config" "${presets[@]}" --exp "$exp" --train_dir "$data/$train_set" --dev_dir "$data/$dev_set" \
        "${options[@]}" "$@" $train_args
}

if at 3 "train $config (preset $preset) into $exp"; then
    train "$config" "$exp" "${cached[@]}"
fi

if at 4 "train again"; then
    if [ -n "$finetune" ]; then
        train "$finetune" "${exp}_tuned" --init "$exp"
    else
        echo "no second training is asked for (--finetune)"
    fi
fi
[ -z "$finetune" ] || exp=${exp}_tuned

if at 5 "separate ($test_sets)"; then
    launch -m pscodec.bin.separate --exp "$exp" --data "$data" --splits "$test_sets" --prompt "$prompts" \
        --output "$output" --ceiling "$ceiling" --checkpoint "$checkpoint"
fi

if at 6 "score"; then
    launch -m pscodec.bin.evaluate_separation --exp "$exp" --data "$data" --splits "$test_sets" \
        --nj $(((nj + ngpu - 1) / ngpu)) --order "$order" ${dnsmos:+--dnsmos "$dnsmos"}
fi

if at 7 "report"; then
    others=()
    for other in $compare; do others+=(--exp "$other"); done
    "$PYTHON" -m pscodec.bin.report_separation --exp "$exp" "${others[@]}" --data "$data" --paper paper --out "$exp/report"
fi
