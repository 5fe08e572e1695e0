#!/usr/bin/env bash
# Makes the environment and runs the tests, two at a time. Arguments go to pytest, as from the checkout's folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

exec python -m pytest -n 2 "$@"
