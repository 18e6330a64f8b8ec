#!/usr/bin/env bash
# Set up as scripts/setup.sh does, then show the whole way once: a simulated robot camera and the perception node as two
# processes, descriptions of a few frames, some questions with their answers. Arguments go to scripts/demo.py.
#
#     scripts/demo.sh            ends by itself
#     scripts/demo.sh --stay     keeps camera and node running until Ctrl-C, for questions of your own
#     scripts/demo.sh --world tabletop    at a table with plain shapes, which needs 0.7 GB less than the household
#     scripts/demo.sh --console web    the same in a browser
#     scripts/demo.sh --voice    the same by voice: listens to a microphone; without one it plays a recorded question
#     scripts/demo.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/help.sh demo "$@"
options=()
case " $* " in
    *" --world tabletop "* | *" --world=tabletop "*) ;;
    *) options+=(--household) ;;
esac
case " $* " in *" --voice "*) options+=(--speech) ;; esac
scripts/setup.sh "${options[@]}"
. scripts/env.sh
exec python scripts/demo.py "$@"
