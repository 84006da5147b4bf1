#!/usr/bin/env bash
# Two-speaker separation of real voices from Debian packages: from nothing to a table and a listening page.
set -euo pipefail
cd "$(dirname "$0")"
. ./path.sh

config=conf/default.yaml
run_recipe "$@"
