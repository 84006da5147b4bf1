#!/usr/bin/env bash
# Two-speaker separation on WSJ0-2mix: the experiment of the paper.
set -euo pipefail
cd "$(dirname "$0")"
. ../../tools/recipe.sh

task=separation
config=conf/paper.yaml
recipe_help="
  --wsj0 DIR        folder that holds wsj0/ of LDC's WSJ0 (LDC93S6A): wv1 files, with or without
                    Shorten compression, or wav files
  --mix-lists DIR   folder of the published lists mix_2_spk_{tr,cv,tt}.txt (default: drawn from
                    the seed)
  --rates LIST      8k, 16k or both with a comma; training uses the first (default: the config's)
  --modes LIST      min, max or both: mixtures as long as the shorter or the longer voice;
                    training uses the first"
recipe_option() {
    case $1 in
        --wsj0) overrides+=(--corpus.root "$2") ;;
        --mix-lists) overrides+=(--corpus.lists "$2") ;;
        --rates) overrides+=(--mixing.rates "[$2]") ;;
        --modes) overrides+=(--mixing.modes "[$2]") ;;
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
