"""What scripts/setup.sh finds of a GPU, says of it and installs for it: on trees of files as machines have them."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from ros_gpt4roi.runtime.device import find_gpu

_INFORMATION = {"proc/driver/nvidia/gpus/1/information": "Model: \t NVIDIA L4\nIRQ: 3\n"}
_PCI = {"sys/bus/pci/devices/1/vendor": "0x10de\n", "sys/bus/pci/devices/1/class": "0x030200\n"}
_WSL = {"dev/dxg": "", "usr/lib/wsl/lib/libcuda.so.1": ""}
_ORIN = {"proc/device-tree/model": "NVIDIA Jetson Orin NX\0",
         "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic\n"}
_THOR = {"proc/device-tree/model": "NVIDIA Jetson AGX Thor\0", "proc/device-tree/compatible": "nvidia,tegra264\0",
         "var/lib/dpkg/status": "Package: nvidia-l4t-core\nStatus: install ok installed\nArchitecture: arm64\n"
                                "Version: 39.2.0-20260501\n\n"}


def _put(root: Path, files: dict[str, str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def _program(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("files, driver, name, installs, advice", [
    ({}, "", "", False, ""),
    ({**_PCI, "sys/bus/pci/devices/1/class": "0x040300\n"}, "", "", False, ""),  # its sound
    ({"sys/bus/pci/devices/1/vendor": "0x8086\n", "sys/bus/pci/devices/1/class": "0x030000\n"}, "", "", False, ""),
    (_PCI, "", "an NVIDIA GPU", False, "--gpus all"),
    (_INFORMATION, "", "NVIDIA L4", False, "--gpus all"),
    ({**_INFORMATION, "dev/nvidia0": ""}, "", "NVIDIA L4", True, ""),
    ({**_INFORMATION, "dev/nvidia0": ""}, "echo 580.105.08", "NVIDIA L4", True, ""),
    ({**_INFORMATION, "dev/nvidia0": ""}, "echo 535.183.01", "NVIDIA L4", False, "535.183.01, and CUDA 13 needs 580"),
    ({**_INFORMATION, "dev/nvidia0": ""}, "echo Driver/library version mismatch; exit 18", "NVIDIA L4", False,
     "nvidia-smi says: Driver/library version mismatch"),
    ({**_PCI, "dev/nvidiactl": ""}, "", "an NVIDIA GPU", False, "--gpus all"),  # that is no GPU's device
    (_WSL, "", "an NVIDIA GPU of WSL", True, ""),
    ({"dev/dxg": ""}, "", "", False, ""),  # another vendor's
    (_ORIN, "", "NVIDIA Jetson Orin NX", False, "JetPack 6: PyTorch has to be NVIDIA's"),
    (_THOR, "", "NVIDIA Jetson AGX Thor", False, "JetPack 7: PyPI's PyTorch is for it"),
    ({**_ORIN, "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1\n"}, "", "NVIDIA Jetson Orin NX", False,
     "Jetson Linux 35 is too old"),
    ({"etc/nv_tegra_release": ""}, "", "a Jetson's GPU", False, "its JetPack is not known"),
])
def test_a_gpu_is_found_as_the_node_finds_it(root: Path, tmp_path: Path, files: dict[str, str], driver: str,
                                             name: str, installs: bool, advice: str) -> None:
    machine = _put(tmp_path / "machine", files)
    programs = _program(tmp_path / "bin", "nvidia-smi", driver) if driver else tmp_path
    result = subprocess.run(
        ["bash", "-Eeuo", "pipefail", "-c", '. "$0"; find_gpu "$1"; printf "%s\\n" "$gpu" "$gpu_packages" '
         '"${gpu_advice[*]}"', str(root / "scripts" / "gpu.sh"), str(machine)],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    found, packages, said = result.stdout.split("\n", 2)
    assert (found, packages) == (name, "true" if installs else "false")
    assert advice in said and bool(said.strip()) == bool(advice)
    assert find_gpu(machine) == name


def test_check_says_what_was_found_and_changes_nothing(root: Path, tmp_path: Path) -> None:
    result = subprocess.run([str(root / "scripts" / "setup.sh"), "--check"], capture_output=True, text=True,
                            timeout=120, env={**os.environ, "ROS_GPT4ROI_SYSTEM": str(_put(tmp_path, _ORIN))})
    assert result.returncode == 0, result.stderr
    assert "GPU: NVIDIA Jetson Orin NX\n          JetPack 6" in result.stdout
    assert result.stdout.endswith("nothing is missing\n")


def _wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A wheel that pip installs."""
    folder.mkdir(exist_ok=True)
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    files = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))


@pytest.mark.slow
def test_onnxruntime_for_the_gpu_takes_the_place_of_the_other_and_keeps_it(root: Path, tmp_path: Path) -> None:
    """By pip itself, from small wheels of these names; the set-up ends after its third step, for want of the others."""
    checkout, wheels = tmp_path / "checkout", tmp_path / "wheels"
    _put(checkout, {f"scripts/{name}": (root / "scripts" / name).read_text(encoding="utf-8")
                    for name in ("setup.sh", "gpu.sh", "check_venv.py", "fix_ros_wheels.py")})
    _put(checkout, {"requirements/constraints.txt": "", "requirements/ros.txt": "# ROS\n",
                    "requirements/runtime.txt": "# robot\nonnxruntime==1.32.0\n",
                    "requirements/gpu.txt": "# GPU\ntensorrt==11.4.0.106\nonnxruntime-gpu==1.31.1\n"})
    _wheel(wheels, "onnxruntime", "1.32.0", {"onnxruntime/__init__.py": "made_for = 'CPU'\n"})
    _wheel(wheels, "onnxruntime-gpu", "1.31.1", {"onnxruntime/__init__.py": "made_for = 'GPU'\n"})
    machine = _put(tmp_path / "machine", {**_INFORMATION, "dev/nvidia0": ""})
    python, stamp = checkout / ".venv/bin/python", checkout / ".venv/.setup/packages.gpu"

    def set_up() -> str:
        result = subprocess.run(
            ["bash", str(checkout / "scripts" / "setup.sh")], capture_output=True, text=True, timeout=300,
            stdin=subprocess.DEVNULL, env={
                **{name: value for name, value in os.environ.items()
                   if not name.startswith(("ROS_", "AMENT_", "PIP_"))},
                "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": "",
                "ROS_GPT4ROI_SYSTEM": str(machine)})
        assert "GPU: NVIDIA L4, for which requirements/gpu.txt is installed" in result.stdout, result.stderr
        return result.stdout + result.stderr

    def made_for() -> str:
        return subprocess.run([python, "-c", "import onnxruntime; print(onnxruntime.made_for)"], capture_output=True,
                              text=True, timeout=60, cwd=tmp_path, check=True).stdout.strip()

    assert "not installed: tensorrt (see above)" in set_up()  # it has no wheel yet; the rest is installed all the same
    assert made_for() == "GPU" and not stamp.exists()
    _wheel(wheels, "tensorrt", "11.4.0.106", {"tensorrt/__init__.py": ""})
    set_up()
    assert stamp.exists() and "gpu: up to date" in set_up()
    # Another package has asked for `onnxruntime`, as faster-whisper does.
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-index", "-f", wheels, "onnxruntime"], check=True,
                   timeout=120)
    assert made_for() == "CPU"
    set_up()
    assert made_for() == "GPU"
    # What a robot needs has changed.
    (checkout / "requirements/runtime.txt").write_text("# robot\nonnxruntime==1.33.0\ntensorrt==11.4.0.106\n")
    assert "runtime: robot" in set_up()
    assert made_for() == "GPU"
