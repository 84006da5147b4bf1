# Sourced by the run.sh of every recipe, from the recipe's folder: reads the options and runs the
# stages. A run.sh sets `task` (separation or images) and `config`, may define `recipe_option` and
# `recipe_help` for options of its own, and calls
#
#     parse_options "$@"                       # sets $data, $exp, $from_ann, ..., and $settings
#     run_stage NUMBER TITLE COMMAND ARGUMENT...
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
    { echo "run.sh: error: needs bash 4.4 or newer; on macOS: brew install bash" >&2; exit 2; }

# Use the environment of this checkout if `make install` has made one.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -x "$root/.venv/bin/spikesep-prepare" ]; then
    export PATH="$root/.venv/bin:$PATH"
fi

# Options and their defaults.
stage=0
stop_stage=   # set by parse_options: the last stage of the task
tag=
data=data
ngpu=0
nproc=1
num_nodes=1
nj=0
launcher=local
from_ann=()   # --from-ann DIR
from_snn=()   # --from-snn DIR DIR ...
overrides=()  # --section.key VALUE, in the order given
recipe_help=

# recipe_option NAME VALUE: take an option of this recipe, or fail. A run.sh may redefine it.
recipe_option() { return 1; }

separation_help() {
    cat <<EOF
Usage: ./run.sh [options] [--section.key VALUE ...]
$recipe_help
  --stage N         first stage to run (default $stage)
  --stop-stage N    last stage to run (default 5)
  --config FILE     settings (default $config)
  --tag NAME        name of the experiment, exp/NAME (default: the config's name)
  --data DIR        utterance lists and mixtures (default $data)
  --seed N          random seed (default: the config's)
  --from-ann DIR    start from this ANN: stage 2 trains it further, --stage 3 converts it
  --from-snn DIR    train this converted network further in stage 3; repeat the option to start
                    from the mean of several
  --ngpu N          accelerators per machine (default $ngpu: CPU)
  --nproc N         training processes per machine when --ngpu is 0 (default $nproc)
  --num-nodes N     machines that train together (default $num_nodes)
  --nj N            processes for work on files; with slurm, cores per process
                    (default $nj: all cores; slurm: 1)
  --launcher NAME   local, or slurm to submit stages 2 to 4 as jobs (default $launcher); see also
                    --launch.partition NAME, --launch.minutes N, --launch.n_shards N (scoring jobs)
  --help            show this text

Stages:
  0 corpus            spikesep-prepare corpus
  1 mixtures          spikesep-prepare mixtures
  2 ANN pre-training  spikesep-train
  3 conversion        spikesep-convert
  4 scoring           spikesep-score
  5 listening page    spikesep-demo
  6 tracks            spikesep-tracks (only if asked for)
EOF
}

images_help() {
    cat <<EOF
Usage: ./run.sh [options] [--section.key VALUE ...]
$recipe_help
  --stage N         first stage to run (default $stage)
  --stop-stage N    last stage to run (default 4)
  --config FILE     settings of the experiment (default $config)
  --tag NAME        name of the runs, exp/NAME (default: the config's name)
  --data DIR        images (default $data)
  --seed N          random seed of the first run
  --ngpu N          1 computes on an accelerator (default $ngpu: CPU)
  --help            show this text

Stages:
  0 images            spikesep-vision prepare
  1 ANN training      spikesep-vision train
  2 conversion        spikesep-vision convert
  3 scoring           spikesep-vision score
  4 report            spikesep-vision report (results/, RESULTS.md)
EOF
}

show_help() {
    "${task}_help"
    cat <<EOF

A complete stage is skipped with a message. An interrupted run resumes with the same command.
Any setting of the config can be given as an option, e.g. --convert.n_steps 16.
Relative paths start at the recipe's folder.
EOF
}

fail() {
    echo "run.sh: error: $1 (see ./run.sh --help)" >&2
    exit 2
}

# parse_options ARGUMENT...: set the variables above, $exp and $settings.
parse_options() {
    local last_stage=6 default_stop=5
    [ "$task" = separation ] || last_stage=4 default_stop=4
    command_line=$(quote ./run.sh "$@")
    while [ $# -gt 0 ]; do
        [[ $1 == --*=* ]] && set -- "${1%%=*}" "${1#*=}" "${@:2}"
        case $1 in
            --help | -h) show_help; exit 0 ;;
            --*) take_option "$@"; shift 2 ;;
            *) fail "unknown option $1" ;;
        esac
    done
    if [ "$stage" = 6 ]; then default_stop=6; fi
    stop_stage=${stop_stage:-$default_stop}
    check_options "$last_stage"
    exp=exp/${tag:-$(basename "$config" .yaml)}
    settings=(--config "$config" --launch.n_gpus "$ngpu")
    [ "$task" != separation ] || settings+=(--launch.n_processes "$nproc"
        --launch.n_nodes "$num_nodes" --launch.n_jobs "$nj" --launch.launcher "$launcher")
    settings+=("${overrides[@]}")
}

# take_option --NAME VALUE ...: store the value of one option.
take_option() {
    local name=${1#--} value=${2-}
    case $1 in
        --*.* | --seed) overrides+=("$1" "$value") ;;
        --stage | --stop-stage | --config | --tag | --data | --ngpu)
            printf -v "${name//-/_}" %s "$value" ;;
        *)
            "${task}_option" "$1" "$value" || recipe_option "$1" "$value" ||
                fail "unknown option $1" ;;
    esac
    [ $# -ge 2 ] || fail "$1 needs a value"
}

separation_option() {
    local name=${1#--}
    case $1 in
        --from-ann) from_ann=(--from-ann "$2") ;;
        --from-snn) from_snn=(--from-snn "${from_snn[@]:1}" "$2") ;;
        --nproc | --num-nodes | --nj | --launcher) printf -v "${name//-/_}" %s "$2" ;;
        *) return 1 ;;
    esac
}

images_option() { return 1; }

check_options() {
    [[ $stage =~ ^[0-$1]$ && $stop_stage =~ ^[0-$1]$ ]] ||
        fail "--stage and --stop-stage take 0 to $1"
    [ "$stage" -le "$stop_stage" ] || fail "--stage $stage comes after --stop-stage $stop_stage"
    [ -f "$config" ] || fail "--config $config: no such file"
    [[ $launcher =~ ^(local|slurm)$ ]] || fail "--launcher $launcher: give local or slurm"
    command -v spikesep-prepare >/dev/null ||
        fail "spikesep is not installed: run make install in the repository's top folder"
}

# quote WORD...: the words as one would type them.
quote() {
    local word line=
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=-]+$ ]] || word=${word@Q}
        line+=" $word"
    done
    echo "${line# }"
}

# run_stage NUMBER TITLE COMMAND...: run the command with the settings if the stage was asked for.
run_stage() {
    local number=$1 title=$2
    shift 2
    if [ "$stage" -le "$number" ] && [ "$number" -le "$stop_stage" ]; then
        echo "== stage $number: $title =="
        "$@" "${settings[@]}" & # in the background: bash handles signals only while it waits
        child=$!
        wait "$child"
    fi
}

# stop SIGNAL: pass the signal on to the running command and exit with its status.
child=
stop() {
    trap - INT TERM HUP
    kill "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
    echo "run.sh: stopped; the same command resumes" >&2
    exit $((128 + $1))
}
trap 'stop 2' INT
trap 'stop 15' TERM
trap 'stop 1' HUP
