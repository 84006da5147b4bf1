#!/usr/bin/env bash
# Image classification of the paper: CNNs converted to spiking neurons, methods compared.
set -euo pipefail
cd "$(dirname "$0")"
. ../../tools/recipe.sh

task=images
config=conf/table2.yaml
parse_options "$@"

settings=(--data "$data" --exp "$exp" "${settings[@]}")
run_stage 0 "images" spikesep-vision prepare
run_stage 1 "ANN training" spikesep-vision train
run_stage 2 "conversion to spiking neurons" spikesep-vision convert
run_stage 3 "scoring" spikesep-vision score
run_stage 4 "report" spikesep-vision report --results results --command "$command_line"
