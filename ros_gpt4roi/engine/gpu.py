"""The GPU of this machine."""

from __future__ import annotations

from pathlib import Path

import torch

from .flavour import Gpu


def this_gpu(device: torch.device | None = None) -> Gpu | None:
    """The GPU at `device` (None: the first), or None where there is none that CUDA can use."""
    if not torch.cuda.is_available() or (device is not None and device.type != "cuda"):
        return None
    properties = torch.cuda.get_device_properties(device or 0)
    return Gpu(properties.name, (properties.major, properties.minor), _driver())


def _driver() -> str:
    # Kernel module of cards and servers, release of a Jetson.
    for path in ("/sys/module/nvidia/version", "/etc/nv_tegra_release"):
        try:
            return Path(path).read_text(encoding="utf-8").splitlines()[0].strip()
        except (OSError, IndexError):
            continue
    return f"CUDA {torch.version.cuda}"
