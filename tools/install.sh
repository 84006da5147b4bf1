#!/usr/bin/env bash
# tools/install.sh VENV [EXTRAS]: make a virtual environment and install this checkout into it, editable.
set -euo pipefail
venv=${1:?usage: tools/install.sh VENV [EXTRAS]}
extras=${2:-dev}
root=$(cd "$(dirname "$0")/.." && pwd)

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "install.sh: needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2
    exit 2
fi
if [ ! -x "$venv/bin/pip" ] && ! "$python" -m venv "$venv"; then
    echo "install.sh: cannot make $venv; on Debian: apt-get install python3-venv" >&2
    exit 2
fi
echo "installing SpikeSep and its pinned dependencies into $venv (a few minutes, some GB)"
if ! "$venv/bin/pip" install --quiet --disable-pip-version-check --editable "$root[$extras]"; then
    echo "install.sh: pip failed, for the reason above; if pesq could not be built: apt-get install build-essential python3-dev" >&2
    exit 2
fi
