# Sourced by path.sh from the recipe's own folder, where it stands as a link: finds the repository's own environment, if it
# is there, and holds what all recipes share of how stages run.
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || { echo "run.sh: error: needs bash 4.4 or newer" >&2; exit 2; }
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -x "$recipe/../../.venv/bin/spikesep-prepare" ]; then
    export PATH="$recipe/../../.venv/bin:$PATH"
fi
child=

fail() {
    echo "run.sh: error: $1 (see ./run.sh --help)" >&2
    exit 2
}

# check_stages LAST: what every recipe wants of its options.
check_stages() {
    [[ $stage =~ ^[0-$1]$ && $stop_stage =~ ^[0-$1]$ ]] || fail "--stage and --stop-stage take 0 to $1"
    [ "$stage" -le "$stop_stage" ] || fail "--stage $stage comes after --stop-stage $stop_stage"
    [ -f "$config" ] || fail "--config $config: no such file"
    command -v spikesep-prepare >/dev/null || fail "spikesep is not installed: run make in the repository's top folder"
}

# run_stage NUMBER TITLE COMMAND...: with the settings, if it is one of those that are wanted.
run_stage() {
    local number=$1 title=$2
    shift 2
    if [ "$stage" -le "$number" ] && [ "$number" -le "$stop_stage" ]; then
        echo "== stage $number: $title =="
        "$@" "${settings[@]}" & # bash heeds a signal only where it waits
        child=$!
        wait "$child"
    fi
}

stop() {
    trap - INT TERM HUP
    kill "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
    echo "run.sh: stopped; the same command goes on" >&2
    exit $((128 + $1))
}
trap 'stop 2' INT
trap 'stop 15' TERM
trap 'stop 1' HUP
