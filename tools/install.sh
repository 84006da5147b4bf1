#!/usr/bin/env bash
# tools/install.sh VENV: make a virtual environment of the locked packages, and this checkout, editable, in it.
set -euo pipefail
venv=${1:?usage: tools/install.sh VENV}
root=$(cd "$(dirname "$0")/.." && pwd)
lock=$root/requirements.lock

fail() {
    echo "install.sh: error: $1" >&2
    exit 2
}

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null ||
    fail "needs Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python"
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv" ||
    fail "cannot make $venv; on Debian: apt-get install python3-venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)

echo "installing the packages of requirements.lock into $venv (about 6 GB on Linux, most of it CUDA)"
# uv downloads side by side and checks every hash. pip does the same more slowly where uv cannot reach
# the index, such as behind an index that is set in pip's own settings.
if ! { "${pip[@]}" install --require-hashes -r <(awk '/^uv==/ {on=1} on; on && !/\\$/ {exit}' "$lock") &&
    "$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" --require-hashes --build-constraints "$lock" "$lock"; }; then
    echo "install.sh: uv could not install them; trying pip"
    "${pip[@]}" install --require-hashes -r "$lock" ||
        fail "see the reason above; if pesq could not be built: apt-get install build-essential python3-dev"
fi
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable "$root" ||
    fail "cannot install $root, for the reason above"
"$venv/bin/spikesep-doctor"
