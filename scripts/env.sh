# shellcheck shell=bash disable=SC1091
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

# An empty element of such a variable is the current folder: a library or module that lies there would be loaded.
# colcon's scripts leave one behind what they prepend to a variable that was not set.
for _name in PATH LD_LIBRARY_PATH PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PKG_CONFIG_PATH; do
    [ -n "${!_name+set}" ] || continue
    _value=:${!_name}:
    while [[ $_value = *::* ]]; do _value=${_value//::/:}; done
    _value=${_value#:}
    if [ -n "$_value" ]; then export "$_name=${_value%:}"; else unset "$_name"; fi
done

[ -z "$_nounset" ] || set -u
unset _root _nounset _name _value
