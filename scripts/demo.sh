#!/usr/bin/env bash
# Set up as scripts/setup.sh does, then show the whole way once: a simulated robot camera and the perception node as two
# processes, descriptions of a few frames, four questions with their answers. Arguments go to scripts/demo.py.
#
#     scripts/demo.sh            ends by itself
#     scripts/demo.sh --stay     keeps camera and node running until Ctrl-C, for questions of your own
#     scripts/demo.sh --console web    the same in a browser
#     scripts/demo.sh --voice    the same by voice: listens to a microphone; without one it plays a recorded question
#     scripts/demo.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in
    *" --voice "*) scripts/setup.sh --speech ;;
    *) scripts/setup.sh ;;
esac
. scripts/env.sh
exec python scripts/demo.py "$@"
