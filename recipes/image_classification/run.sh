#!/usr/bin/env bash
# The paper's image classification: CNNs converted to spiking neurons, methods compared; tables and figures.
set -euo pipefail
cd "$(dirname "$0")"
. ./path.sh

config=conf/table2.yaml
run_recipe "$@"
