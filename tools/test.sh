#!/usr/bin/env bash
# Sets up what the tests need, in .venv, and runs them, a process for each core and torch on one. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
prepare test
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"
