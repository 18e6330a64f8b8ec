"""TensorRT comes as two libraries with one Python interface; which of them is here, and what it builds for."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .. import EngineError

if TYPE_CHECKING:
    import torch

LIBRARIES = ("tensorrt", "tensorrt_rtx")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """Name, compute capability and driver of a GPU."""

    name: str
    capability: tuple[int, int]
    driver: str


@dataclass(frozen=True)
class Library:
    """An imported TensorRT module."""

    name: str
    module: ModuleType
    version: str

    @property
    def ahead_of_time(self) -> bool:
        """Whether plans can be built where no GPU is."""
        return hasattr(self.module, "ComputeCapability")

    def supports(self, gpu: Gpu) -> bool:
        """Whether this library makes engines for a GPU; tensorrt_rtx names those it knows."""
        return not self.ahead_of_time or "SM{}{}".format(*gpu.capability) in self.module.ComputeCapability.__members__


def load_library(name: str) -> Library:
    """Imports "tensorrt" or "tensorrt_rtx".

    Raises:
        EngineError: with the import's own words.
    """
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise EngineError(f"{name} cannot be imported ({error})") from error
    return Library(name, module, module.__version__)


def choose_library(name: str, gpu: Gpu | None) -> Library:
    """The library of that name, or with "auto" the first that imports and supports the GPU.

    Args:
        name: of LIBRARIES, or "auto".
        gpu: what the engine is for; None for a library that builds ahead of time.

    Raises:
        EngineError: says why each was left out.
    """
    reasons = []
    for candidate in LIBRARIES if name == "auto" else (name,):
        try:
            library = load_library(candidate)
        except EngineError as error:
            reasons.append(str(error))
            continue
        if gpu is not None and not library.supports(gpu):
            reasons.append(f"{candidate} {library.version} does not know compute capability {gpu.capability}")
        elif gpu is None and not library.ahead_of_time:
            reasons.append(f"{candidate} {library.version} needs a GPU to build")
        else:
            return library
    raise EngineError("; ".join(reasons))


def this_gpu(device: torch.device | None = None) -> Gpu | None:
    """The GPU at `device` (None: the first), or None where there is none that CUDA can use."""
    import torch  # not at the top: building in the child process needs none

    if not torch.cuda.is_available() or (device is not None and device.type != "cuda"):
        return None
    properties = torch.cuda.get_device_properties(device or 0)
    return Gpu(properties.name, (properties.major, properties.minor), _driver() or f"CUDA {torch.version.cuda}")


def _driver() -> str:
    # Kernel module of cards and servers, release of a Jetson.
    for path in ("/sys/module/nvidia/version", "/etc/nv_tegra_release"):
        try:
            return Path(path).read_text(encoding="utf-8").splitlines()[0].strip()
        except (OSError, IndexError):
            continue
    return ""


def make_logger(trt: ModuleType) -> Any:
    """A TensorRT logger that writes to ours and remembers the last error: TensorRT answers None where it fails."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = "no reason given"

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.last_error = text.strip()
                _log.error("%s", text)
            else:
                _log.debug("%s", text)

    return Logger()
