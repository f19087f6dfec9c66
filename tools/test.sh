#!/usr/bin/env bash
# Sets up what the tests need, in .venv, and runs them. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
prepare test
exec .venv/bin/python -m pytest "$@"
