# Sourced by run.sh: finds the repository's own environment, if it is there, and the recipe's folder.
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -x "$recipe/../../.venv/bin/spikesep-vision" ]; then
    export PATH="$recipe/../../.venv/bin:$PATH"
fi
