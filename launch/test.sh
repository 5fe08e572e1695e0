#!/usr/bin/env bash
# Makes the environment and runs the tests, three at a time: they wait a lot. Arguments go to pytest, as from the checkout's folder.
# --nightly, first: also the tests that take long, and many more seeds and examples of the others; hours.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

# Where nothing is kept of what was compiled, each of the thousand processes compiles anew.
unset PYTHONDONTWRITEBYTECODE
if [[ "${1-}" == --nightly ]]; then
    shift
    export FEDMQ_NIGHTLY=1
fi
exec python -m pytest -n 3 --dist worksteal "$@"
