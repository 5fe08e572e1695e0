#!/usr/bin/env bash
# Makes the environment and trains the bundled model on the bundled tweets: separate coordinator and
# worker processes on this machine. Arguments go to `fedmq run`; without any, a second run replaces the first.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [[ $# -eq 0 ]]; then
    set -- --overwrite
fi
exec fedmq run "$@"
