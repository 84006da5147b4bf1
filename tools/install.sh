#!/usr/bin/env bash
# Usage: tools/install.sh VENV
# Create a virtual environment with the locked packages and this checkout as an editable install.
set -euo pipefail
venv=${1:?usage: tools/install.sh VENV}
root=$(cd "$(dirname "$0")/.." && pwd)
lock=$root/requirements.lock

fail() {
    echo "install.sh: error: $*" >&2
    exit 2
}

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null ||
    fail "needs Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python"
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv" ||
    fail "cannot make $venv; on Debian: apt-get install python3-venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)

# Install uv alone from the lock, then everything else with uv, which downloads in parallel.
install_with_uv() {
    "${pip[@]}" install --require-hashes \
        -r <(awk '/^uv==/ {on=1} on; on && !/\\$/ {exit}' "$lock") &&
        "$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" \
            --require-hashes --build-constraints "$lock" "$lock"
}

echo "installing the packages of requirements.lock into $venv" \
    "(about 6 GB on Linux, most of it CUDA)"
# uv does not read pip's settings, so it may miss an index that is configured there.
if ! install_with_uv; then
    echo "install.sh: uv could not install them; trying pip"
    "${pip[@]}" install --require-hashes -r "$lock" ||
        fail "see the reason above; pesq needs a C compiler and the headers of Python" \
            "(Debian: apt-get install build-essential python3-dev; macOS: xcode-select --install)"
fi
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
    --no-deps --no-build-isolation --editable "$root" ||
    fail "cannot install $root, for the reason above"
"$venv/bin/spikesep-doctor"
