#!/usr/bin/env bash
# All experiments of plan.yaml, the most worth per minute first; see ./run_all.sh --help.
set -euo pipefail
cd "$(dirname "$0")"
. ../../tools/recipe.sh
exec python ../../tools/run_plan.py "$@"
