#!/usr/bin/env bash
# Run by `make demo` after the installation. Act one separates voices with the shipped model, act
# two trains a model from scratch, and at the end both are scored on the same mixtures.
set -euo pipefail
cd "$(dirname "$0")/../egs/debian-2mix"
shipped=../../spikesep/separation/pretrained/free-2mix
page=egs/debian-2mix/exp

# score_shipped EXP DATA CONFIG: copy the shipped model to exp/EXP and score it on DATA.
score_shipped() {
    mkdir -p "exp/$1"
    cp -r $shipped/ann $shipped/snn "exp/$1/"
    ./run.sh --tag "$1" --data "$2" --config "$3" --stage 4
}

echo "Act one: the shipped model separates voices that were not in its training."
./run.sh --config conf/first-look.yaml --data data-first-look --stop-stage 1
score_shipped first-look data-first-look conf/first-look.yaml
cat <<END

Listen: open $page/first-look/demo/index.html in a browser.
Separate a recording of your own:

    .venv/bin/spikesep-infer recording.wav --out-dir voices
    .venv/bin/spikesep-serve            # the same on a page of this computer

Act two: train a model from scratch: fetch voices, train, convert to spikes, score.
This takes about half an hour on two cores and reports its progress. Stop it with Ctrl-C at any
time; make demo resumes where it stopped.

END
./run.sh
echo "The shipped model on the same mixtures, for comparison:"
score_shipped shipped data conf/default.yaml
cat <<END

Your model: $page/default/demo/index.html, $page/default/RESULTS.md
The shipped model: $page/shipped/demo/index.html, $page/shipped/RESULTS.md
END
