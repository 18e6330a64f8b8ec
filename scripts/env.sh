# Source this file: it gives a bash the environment that scripts/setup.sh has built (virtual environment, ROS 2, the
# workspace's packages).
#
#     . scripts/env.sh

_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ ! -f "$_root/install/setup.bash" ] || [ ! -x "$_root/.venv/bin/python" ]; then
    echo "scripts/env.sh: nothing is set up in $_root yet; run scripts/setup.sh first" >&2
    unset _root
    return 1
fi

case $- in *u*) _nounset=1 ;; *) _nounset= ;; esac
set +u # colcon's scripts read variables that may be unset

# The ROS wheels skip finding their libraries where this guard is inherited, perhaps from another virtual environment.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
. "$_root/.venv/bin/activate"
if [ "$(cat "$_root/.venv/.setup/ros" 2>/dev/null)" = pip ]; then
    export AMENT_PREFIX_PATH="$_root/.venv"
fi
. "$_root/install/setup.bash"

[ -z "$_nounset" ] || set -u
unset _root _nounset
