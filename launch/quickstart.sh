#!/usr/bin/env bash
# Makes the environment and trains the bundled model on the bundled tweets: separate coordinator and
# worker processes on this machine. Arguments go to `fedmq run`; a second run replaces the first.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [[ " $* " == *" --resume "* ]]; then
    exec fedmq run "$@"
fi
exec fedmq run --overwrite "$@"
