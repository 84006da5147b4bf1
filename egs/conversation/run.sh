#!/usr/bin/env bash
# Separation of conversations: one to three voices in rooms and noise, at 16 kHz.
set -euo pipefail
cd "$(dirname "$0")"
. ../../tools/recipe.sh

task=separation
config=conf/default.yaml
recipe_help="
  --librispeech DIR folder that holds SPEAKERS.TXT and at least one subset of LibriSpeech, such as
                    train-clean-100"
recipe_option() {
    case $1 in
        --librispeech) overrides+=(--corpus.root "$2") ;;
        *) return 1 ;;
    esac
}
parse_options "$@"

run_stage 0 "corpus" spikesep-prepare corpus --data "$data"
run_stage 1 "mixtures" spikesep-prepare mixtures --data "$data"
run_stage 2 "ANN pre-training" spikesep-train --data "$data" --exp "$exp" "${from_ann[@]}"
run_stage 3 "conversion to spiking neurons" spikesep-convert --data "$data" --exp "$exp" \
    "${from_ann[@]}" "${from_snn[@]}"
run_stage 4 "scoring" spikesep-score --data "$data" --exp "$exp"
run_stage 5 "listening page" spikesep-demo --data "$data" --exp "$exp"
run_stage 6 "tracks that follow their speakers" spikesep-tracks --data "$data" --exp "$exp"
