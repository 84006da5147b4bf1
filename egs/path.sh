# Sourced by every recipe's run.sh (as its path.sh): the options and stages of speech recipes. A recipe sets `config`, its own options and
# their help, and calls `run_recipe "$@"`.
. "$(dirname "${BASH_SOURCE[0]}")/stages.sh"

stage=0
stop_stage=5
tag=
data=data
ngpu=0
nproc=1
num_nodes=1
nj=0
launcher=local
overrides=()
from_ann=()
from_snn=()
declare -A own_options=() # option -> setting; a setting with [] takes a list like 8k,16k
own_help=

usage() {
    cat <<EOF
Usage: ./run.sh [options] [--section.key VALUE ...]
$own_help
  --stage N         first stage to run (default $stage)
  --stop-stage N    last stage to run (default $stop_stage)
  --config FILE     settings (default $config)
  --tag NAME        name of the experiment, exp/NAME (default: the config's name)
  --data DIR        lists and mixtures (default $data)
  --seed N          of everything that is drawn (default: the config's)
  --from-ann DIR    an analog separator to train further, or, with --stage 3, to convert as it is
  --from-snn DIR    what an earlier conversion made of that separator, to train further in stage 3;
                    given again, the mean of these
  --ngpu N          accelerators of a machine (default $ngpu: the CPU)
  --nproc N         training processes of a machine where --ngpu is 0 (default $nproc)
  --num-nodes N     machines that train together (default $num_nodes)
  --nj N            processes for work on files; with slurm, cores a process (default $nj: all cores, slurm 1)
  --launcher NAME   local, or slurm: stages 2 to 4 become jobs (default $launcher); see --launch.partition NAME,
                    --launch.minutes N, --launch.n_shards N (jobs that score)
  --help            this text

Stages: 0 corpus, 1 mixtures, 2 ANN pre-training, 3 conversion, 4 scoring, 5 listening page.
A stage that is complete says so and is not done again. Any setting of the config can be given, e.g. --convert.n_steps 16.
Relative paths are taken from the recipe's folder.
EOF
}

read_options() {
    local name setting
    while [ $# -gt 0 ]; do
        [[ $1 == --*=* ]] && set -- "${1%%=*}" "${1#*=}" "${@:2}"
        case $1 in
            --help | -h) usage; exit 0 ;;
            --*) ;;
            *) fail "unknown option $1" ;;
        esac
        name=${1#--} setting=${own_options[${1#--}]-}
        case $1 in
            --stage | --stop-stage | --config | --tag | --data | --ngpu | --nproc | --num-nodes | --nj | --launcher) ;;
            --*.* | --seed | --from-ann | --from-snn) ;;
            *) [ -n "$setting" ] || fail "unknown option $1" ;;
        esac
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
            --from-ann) from_ann=("$1" "$2") ;;
            --from-snn) from_snn=("${from_snn[@]:---from-snn}" "$2") ;;
            --*.* | --seed) overrides+=("$1" "$2") ;;
            *)
                case $setting in
                    "") printf -v "${name//-/_}" %s "$2" ;;
                    *"[]") overrides+=("--${setting%"[]"}" "[$2]") ;;
                    *) overrides+=("--$setting" "$2") ;;
                esac ;;
        esac
        shift 2
    done
    check_stages 5
    [[ $launcher =~ ^(local|slurm)$ ]] || fail "--launcher $launcher: give local or slurm"
}

run_recipe() {
    read_options "$@"
    exp=exp/${tag:-$(basename "$config" .yaml)}
    settings=(--config "$config" --launch.n_gpus "$ngpu" --launch.n_processes "$nproc" --launch.n_nodes "$num_nodes"
        --launch.n_jobs "$nj" --launch.launcher "$launcher" ${overrides[@]+"${overrides[@]}"})
    run_stage 0 "corpus" spikesep-prepare corpus --data "$data"
    run_stage 1 "mixtures" spikesep-prepare mixtures --data "$data"
    run_stage 2 "ANN pre-training" spikesep-train --data "$data" --exp "$exp" ${from_ann[@]+"${from_ann[@]}"}
    run_stage 3 "conversion to spiking neurons" spikesep-convert --data "$data" --exp "$exp" ${from_ann[@]+"${from_ann[@]}"} \
        ${from_snn[@]+"${from_snn[@]}"}
    run_stage 4 "scoring" spikesep-score --data "$data" --exp "$exp"
    run_stage 5 "listening page" spikesep-demo --data "$data" --exp "$exp"
}
