#!/usr/bin/env bash
# The paper's image reconstruction: an autoencoder on MNIST, converted to spiking neurons; tables and figures.
set -euo pipefail
cd "$(dirname "$0")"
. ./path.sh
call="./run.sh $*"

stage=0
stop_stage=4
config=conf/table3.yaml
tag=
data=data
ngpu=0
overrides=()

usage() {
    cat <<EOF
Usage: ./run.sh [options] [--section.key VALUE ...]

  --stage N         first stage to run (default $stage)
  --stop-stage N    last stage to run (default $stop_stage)
  --config FILE     the experiment (default $config)
  --tag NAME        name of the runs, exp/NAME (default: the config's name)
  --data DIR        images (default $data)
  --seed N          of the first run
  --ngpu N          1 computes on an accelerator (default $ngpu: the CPU)
  --help            this text

Stages: 0 images, 1 analog networks, 2 conversion, 3 scoring, 4 report (results/, RESULTS.md).
A stage that is complete says so and is not done again. Any setting of the config can be given, e.g. --ann.epochs 5.
Relative paths are taken from the recipe's folder.
EOF
}

fail() {
    echo "run.sh: error: $1 (see ./run.sh --help)" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --stage | --stop-stage | --config | --tag | --data | --ngpu)
            [ $# -ge 2 ] || fail "$1 needs a value"
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift 2 ;;
        --*.*=*)
            overrides+=("$1")
            shift ;;
        --*.* | --seed)
            [ $# -ge 2 ] || fail "$1 needs a value"
            overrides+=("$1" "$2")
            shift 2 ;;
        *) fail "unknown option $1" ;;
    esac
done
[[ $stage =~ ^[0-4]$ && $stop_stage =~ ^[0-4]$ ]] || fail "--stage and --stop-stage take 0 to 4"
[ "$stage" -le "$stop_stage" ] || fail "--stage $stage comes after --stop-stage $stop_stage"
[ -f "$config" ] || fail "--config $config: no such file"
command -v spikesep-vision >/dev/null || fail "spikesep is not installed: run make in the repository's top folder"

exp=exp/${tag:-$(basename "$config" .yaml)}
settings=(--data "$data" --exp "$exp" --config "$config" --launch.n_gpus "$ngpu" ${overrides[@]+"${overrides[@]}"})

run_stage() {
    local number=$1 title=$2
    shift 2
    if [ "$stage" -le "$number" ] && [ "$number" -le "$stop_stage" ]; then
        echo "== stage $number: $title =="
        "$@" "${settings[@]}"
    fi
}

run_stage 0 "images" spikesep-vision prepare
run_stage 1 "analog networks" spikesep-vision train
run_stage 2 "conversion to spiking neurons" spikesep-vision convert
run_stage 3 "scoring" spikesep-vision score
run_stage 4 "report" spikesep-vision report --results results --command "$call"
