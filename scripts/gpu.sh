# shellcheck shell=bash disable=SC2034 # scripts/setup.sh reads the variables
# Functions of scripts/setup.sh: which NVIDIA GPU is here, and what has to be installed for it by whom. Source it.
#
# A GPU is looked for where ros_gpt4roi/runtime/device.py does, which cannot run before its packages are there. The
# argument is always the folder that the system's files are looked for in: / but in tests.

readonly OLDEST_DRIVER=580 # of CUDA 13, which PyPI's PyTorch is for

# Sets `gpu` to the GPU's name, empty where there is none; `gpu_packages` to true where requirements/gpu.txt is for it;
# and `gpu_advice` to lines that say what else it needs.
find_gpu() {
    local root=${1%/}
    gpu_packages=false gpu_advice=()
    gpu=$(_gpu_name "$root")
    if [ -z "$gpu" ]; then
        return
    elif is_jetson "$root"; then
        _advise_jetson "$root"
    elif ! compgen -G "$root/dev/nvidia[0-9]*" >/dev/null && [ ! -e "$root/dev/dxg" ]; then
        gpu_advice=("no driver serves it, so nothing is installed for it. Install NVIDIA's driver, $OLDEST_DRIVER or later, or"
            "start the container with --gpus all; then run scripts/setup.sh again")
    else
        _check_driver "$root"
    fi
}

is_jetson() { [ -e "${1%/}/etc/nv_tegra_release" ] || grep -qsa tegra "${1%/}/proc/device-tree/compatible"; }

# The release of Jetson Linux: 36 is JetPack 6, from 38 on it is JetPack 7. Newer ones have only the package.
jetson_linux() {
    local line version
    line=$(head -n 1 "${1%/}/etc/nv_tegra_release" 2>/dev/null) || true
    if [[ $line =~ R([0-9]+)\ \(release\) ]]; then
        echo "${BASH_REMATCH[1]}"
    else
        version=$(dpkg-query --admindir="${1%/}/var/lib/dpkg" -W -f '${Version}' nvidia-l4t-core 2>/dev/null) || true
        [[ $version =~ ^([0-9]+)\. ]] && echo "${BASH_REMATCH[1]}" || echo 0
    fi
}

_gpu_name() {
    local root=$1 file name
    for file in "$root"/proc/driver/nvidia/gpus/*/information; do
        name=$(sed -n 's/^Model:[[:space:]]*//p' "$file" 2>/dev/null | head -n 1) || continue
        if [ -n "$name" ]; then printf '%s' "$name"; return; fi
    done
    if is_jetson "$root"; then
        name=$(tr -d '\0' 2>/dev/null <"$root/proc/device-tree/model") || true
        if [ -z "$name" ]; then name="a Jetson's GPU"; fi
        printf '%s' "$name"
        return
    fi
    for file in "$root"/sys/bus/pci/devices/*; do
        if grep -qsx 0x10de "$file/vendor" && grep -qs '^0x03' "$file/class"; then
            printf 'an NVIDIA GPU'
            return
        fi
    done
    if [ -e "$root/dev/dxg" ] && [ -e "$root/usr/lib/wsl/lib/libcuda.so.1" ]; then printf 'an NVIDIA GPU of WSL'; fi
}

# A driver that cannot be asked is taken to work: containers may come without nvidia-smi.
_check_driver() {
    local command said
    command=$(command -v nvidia-smi || command -v "$1/usr/lib/wsl/lib/nvidia-smi") || true
    gpu_packages=true
    if [ -z "$command" ]; then
        return
    elif ! said=$(timeout 20 "$command" --query-gpu=driver_version --format=csv,noheader 2>&1); then
        gpu_packages=false
        gpu_advice=("nvidia-smi says: $(head -n 1 <<<"${said:-nothing, for 20 seconds}")"
            "So nothing is installed for it. Mend the driver ($OLDEST_DRIVER or later), then run scripts/setup.sh again")
    elif [[ $said =~ ^([0-9]+)\. ]] && [ "${BASH_REMATCH[1]}" -lt "$OLDEST_DRIVER" ]; then
        gpu_packages=false
        gpu_advice=("its driver is ${said%%$'\n'*}, and CUDA 13 needs $OLDEST_DRIVER or later, so nothing is installed for it."
            "Install a newer driver, then run scripts/setup.sh again")
    fi
}

# ONNX Runtime's wheels for aarch64 have no kernels for Orin (8.7) and Thor (11.0): TensorRT or PyTorch run there.
_advise_jetson() {
    local release
    release=$(jetson_linux "$1")
    local tensorrt="TensorRT is JetPack's: sudo apt-get install python3-libnvinfer. The system's Python imports it, and
          so does .venv where a ROS 2 is sourced for this set-up"
    case $release in
        0) gpu_advice=("its JetPack is not known: PyTorch and TensorRT have to be NVIDIA's for it, see docs/robot_setup.md") ;;
        36) gpu_advice=("JetPack 6: PyTorch has to be NVIDIA's for it and for .venv's Python, see docs/robot_setup.md;"
            "$tensorrt") ;;
        3[89] | [4-9]?) gpu_advice=("JetPack 7: PyPI's PyTorch is for it" "$tensorrt") ;;
        *) gpu_advice=("Jetson Linux $release is too old, expected JetPack 6 or 7") ;;
    esac
}
