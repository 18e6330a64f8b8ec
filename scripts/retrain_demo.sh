#!/usr/bin/env bash
# Set up as `scripts/setup.sh --dev` does, then show once how a robot learns: a simulated one records what it sees in a
# room with things that its model does not know, somebody corrects what it says, the model is retrained, the running node
# takes the new model, and takes it back. Arguments go to scripts/retrain_demo.py.
#
#     scripts/retrain_demo.sh                   ends by itself
#     scripts/retrain_demo.sh --json FILE       also writes the figures
#     scripts/retrain_demo.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/help.sh retrain_demo "$@"
scripts/setup.sh --dev
. scripts/env.sh
exec python scripts/retrain_demo.py "$@"
