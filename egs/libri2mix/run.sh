#!/usr/bin/env bash
# Two-speaker separation on Libri2Mix: the experiment of wsj0-2mix on free speech.
set -euo pipefail
cd "$(dirname "$0")"
. ../../tools/recipe.sh

task=separation
config=conf/paper.yaml
recipe_help="
  --librispeech DIR folder that holds SPEAKERS.TXT and the subsets (train-clean-100, dev-clean,
                    test-clean)
  --metadata DIR    folder of LibriMix's libri2mix_*.csv (default: drawn from the seed)
  --wham DIR        folder wham_noise of WHAM, for mixtures with noise (default: clean)
  --rates LIST      like 8k or 8k,16k; training uses the first (default: the config's)
  --modes LIST      min, max or both: mixtures as long as the shorter or the longer voice;
                    training uses the first"
recipe_option() {
    case $1 in
        --librispeech) overrides+=(--corpus.root "$2") ;;
        --metadata) overrides+=(--corpus.lists "$2") ;;
        --wham) overrides+=(--corpus.noise "$2") ;;
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
