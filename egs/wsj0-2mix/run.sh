#!/usr/bin/env bash
# The paper's experiment: two-speaker separation on WSJ0-2mix.
set -euo pipefail
cd "$(dirname "$0")"
. ./path.sh

config=conf/paper.yaml
own_options=([wsj0]=corpus.root [mix-lists]=corpus.lists [rates]=mixing.rates[] [modes]=mixing.modes[])
own_help="
  --wsj0 DIR        folder that holds wsj0/, of LDC's WSJ0 (LDC93S6A): wv1 files, shortened or not, or wav
  --mix-lists DIR   folder of the published lists mix_2_spk_{tr,cv,tt}.txt (default: lists are drawn from the seed)
  --rates LIST      8k, 16k or both with a comma; the first is trained on (default: the config's)
  --modes LIST      min, max or both: mixtures as long as the shortest or the longest voice; the first is trained on"
run_recipe "$@"
