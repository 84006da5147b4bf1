#!/usr/bin/env bash
# The paper's image reconstruction: an autoencoder on MNIST, converted to spiking neurons; tables and figures.
set -euo pipefail
cd "$(dirname "$0")"
. ./path.sh

config=conf/table3.yaml
run_recipe "$@"
