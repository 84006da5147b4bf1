#!/usr/bin/env bash
# Two-speaker separation on Libri2Mix: as WSJ0-2mix, for those who have no license of the LDC.
set -euo pipefail
cd "$(dirname "$0")"
. ./path.sh

config=conf/paper.yaml
own_options=([librispeech]=corpus.root [metadata]=corpus.lists [wham]=corpus.noise [rates]=mixing.rates[] [modes]=mixing.modes[])
own_help="
  --librispeech DIR folder that holds SPEAKERS.TXT and the subsets (train-clean-100, dev-clean, test-clean)
  --metadata DIR    folder of LibriMix's libri2mix_*.csv (default: metadata is drawn from the seed)
  --wham DIR        folder wham_noise of WHAM, for mixtures with noise (default: clean)
  --rates LIST      like 8k or 8k,16k; the first is trained on (default: the config's)
  --modes LIST      min, max or both: mixtures as long as the shortest or the longest voice; the first is trained on"
run_recipe "$@"
