# Sourced by every image recipe's run.sh (as its path.sh): their options and stages. A recipe sets `config` and calls `run_recipe "$@"`.
. "$(dirname "${BASH_SOURCE[0]}")/stages.sh"

stage=0
stop_stage=4
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
A stage that is complete says so and is not done again. Any setting of the config can be given, e.g. --train.epochs 5.
Relative paths are taken from the recipe's folder.
EOF
}

read_options() {
    local name
    while [ $# -gt 0 ]; do
        [[ $1 == --*=* ]] && set -- "${1%%=*}" "${1#*=}" "${@:2}"
        case $1 in
            --help | -h) usage; exit 0 ;;
            --stage | --stop-stage | --config | --tag | --data | --ngpu | --*.* | --seed) ;;
            *) fail "unknown option $1" ;;
        esac
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
            --*.* | --seed) overrides+=("$1" "$2") ;;
            *) name=${1#--}; printf -v "${name//-/_}" %s "$2" ;;
        esac
        shift 2
    done
    check_stages 4
}

run_recipe() {
    local call=./run.sh word
    for word in "$@"; do  # as one would type it
        [[ $word =~ ^[A-Za-z0-9_./:=-]+$ ]] && call+=" $word" || call+=" ${word@Q}"
    done
    read_options "$@"
    exp=exp/${tag:-$(basename "$config" .yaml)}
    settings=(--data "$data" --exp "$exp" --config "$config" --launch.n_gpus "$ngpu" ${overrides[@]+"${overrides[@]}"})
    run_stage 0 "images" spikesep-vision prepare
    run_stage 1 "analog networks" spikesep-vision train
    run_stage 2 "conversion to spiking neurons" spikesep-vision convert
    run_stage 3 "scoring" spikesep-vision score
    run_stage 4 "report" spikesep-vision report --results results --command "$call"
}
