"""Which device a model runs on, and what to do where there is a GPU that PyTorch can not use."""
from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ..configuration import ConfigError

_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor, and the class that graphics processors are of

# What errors of no type of their own say: PyTorch's on a CPU, CUDA's, cuBLAS's, and ONNX Runtime's.
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "Failed to allocate memory", "bad_alloc")


@dataclass(frozen=True)
class Device:
    """A device that was chosen.

    Attributes:
        name: PyTorch's name of it.
        reason: Why it was taken.
        advice: Where there is a GPU that is not used: what mends it; else empty.
    """

    name: str
    reason: str
    advice: str = ""


def choose_device(wanted: str, root: Path = Path("/")) -> Device:
    """The device to use, after something was computed on it.

    Args:
        wanted: "auto" for CUDA where it works and else the CPU, or PyTorch's name of a device.
        root: Where the system's files are looked for.

    Raises:
        ConfigError: a device was asked for by name that is none or does not work here.
    """
    if wanted == "auto":
        problem = _problem("cuda")
        if not problem:
            return Device("cuda", f"auto: {torch.cuda.get_device_name()}")
        gpu = find_gpu(root)
        if not gpu:
            return Device("cpu", "auto: no GPU here that CUDA could use")
        return Device("cpu", f"auto: {gpu} is here, but {problem}", _mend(root))
    problem = _problem(wanted)
    if problem:
        advice = f"; {_mend(root)}" if wanted.startswith("cuda") and find_gpu(root) else ""
        raise ConfigError(f"device is {wanted!r}, expected auto, cpu or one that works here: {problem}{advice}")
    if wanted == "cpu" and not _problem("cuda"):
        return Device(wanted, "asked for", f"{torch.cuda.get_device_name()} is not used; set pipeline.device to auto")
    return Device(wanted, "asked for")


def free_memory(device: torch.device) -> int:
    """How many bytes are free where the tensors of a device lie.

    A Jetson's GPU has the CPU's memory, of which CUDA counts what files are cached in as taken.
    """
    if device.type == "cuda" and not torch.cuda.get_device_properties(device).is_integrated:
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out: on a CPU, PyTorch and ONNX Runtime raise one of no type for it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in _NO_MEMORY)


def weights_bytes(model_folder: Path) -> int:
    """How many bytes the weights of a checkpoint folder are, as they are stored."""
    return sum(path.stat().st_size for path in model_folder.glob("*.safetensors"))


def used_memory() -> dict[str, float]:
    """What this process holds, in MiB, by name: of the machine's memory, and of a GPU's where one is used."""
    used = {"resident memory [MiB]": psutil.Process().memory_info().rss / 2**20}
    if torch.cuda.is_initialized():
        used["GPU memory of PyTorch [MiB]"] = torch.cuda.memory_reserved() / 2**20
    return used


def find_gpu(root: Path = Path("/")) -> str:
    """The name of an NVIDIA GPU of this machine, whether or not a driver serves it; empty where there is none.

    scripts/gpu.sh looks in the same places, before this package can run.
    """
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        for line in _read(path).splitlines():
            if line.startswith("Model:"):
                return line.removeprefix("Model:").strip()
    if _is_jetson(root):
        return _read(root / "proc/device-tree/model").strip("\0\n") or "a Jetson's GPU"
    for folder in root.glob("sys/bus/pci/devices/*"):
        if _read(folder / "vendor").strip() == _NVIDIA and _read(folder / "class").startswith(_DISPLAY):
            return "an NVIDIA GPU"
    return "an NVIDIA GPU of WSL" if _is_wsl(root) else ""


def _is_jetson(root: Path) -> bool:
    return ((root / "etc/nv_tegra_release").exists()  # newer releases come without it
            or "tegra" in _read(root / "proc/device-tree/compatible"))


def _is_wsl(root: Path) -> bool:
    """Whether Windows' driver serves a GPU here: it shows no PCI device."""
    return (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _problem(device: str) -> str:
    """Why nothing can be computed on a device; empty where it can."""
    if device.startswith("cuda") and torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    try:
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:  # a missing or old driver, a GPU too old for PyTorch, no memory
        return str(error).strip().splitlines()[0]
    return ""


def _mend(root: Path) -> str:
    """What to do about a GPU that PyTorch can not use."""
    if torch.version.cuda is None:
        if _is_jetson(root):  # PyPI's PyTorch does not serve a Jetson's GPU, and wheels are for one Python alone
            return ("run in a container of NVIDIA's that has PyTorch for this JetPack, or install a PyTorch that it "
                    f"has built for this JetPack and Python {sys.version_info.major}.{sys.version_info.minor}")
        return f"install PyTorch with CUDA: {sys.executable} -m pip install --force-reinstall torch torchvision"
    if not any(root.glob("dev/nvidia[0-9]*")) and not _is_jetson(root) and not _is_wsl(root):
        return "no driver serves it here: start a container with `--gpus all`, or install NVIDIA's driver"
    return "see what `nvidia-smi` says of the driver"
