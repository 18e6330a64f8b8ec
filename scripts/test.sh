#!/usr/bin/env bash
# Set up as scripts/setup.sh --dev does, then run the tests; arguments go to pytest.
#
#     scripts/test.sh                    every test
#     scripts/test.sh -m "not slow"      those that take seconds
#     scripts/test.sh tests/nodes -k stale
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh --dev
. scripts/env.sh
exec python -m pytest "$@"
