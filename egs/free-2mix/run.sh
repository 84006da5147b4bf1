#!/usr/bin/env bash
# Two-speaker separation of any voices, on speech that is free: the recipe of the model that comes with the package.
set -euo pipefail
cd "$(dirname "$0")"
. ./path.sh

config=conf/default.yaml
own_options=([librispeech]=corpus.root)
own_help="
  --librispeech DIR folder that holds SPEAKERS.TXT and a subset of LibriSpeech or more, such as train-clean-100"
run_recipe "$@"
