"""TensorRT comes in two flavours with one Python interface; which of them is here, and what it builds for."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .errors import EngineError

FLAVOURS = ("tensorrt", "tensorrt_rtx")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """Name, compute capability and driver of a GPU."""

    name: str
    capability: tuple[int, int]
    driver: str


@dataclass(frozen=True)
class Flavour:
    """An imported TensorRT module."""

    name: str
    module: ModuleType
    version: str

    @property
    def ahead_of_time(self) -> bool:
        """Whether plans can be built where no GPU is."""
        return hasattr(self.module, "ComputeCapability")

    def knows(self, gpu: Gpu) -> bool:
        """Whether this flavour makes engines for a GPU; tensorrt_rtx names those it knows."""
        return not self.ahead_of_time or "SM{}{}".format(*gpu.capability) in self.module.ComputeCapability.__members__


def load_flavour(name: str) -> Flavour:
    """Imports "tensorrt" or "tensorrt_rtx". Raises EngineError with the import's own words."""
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise EngineError(f"{name} cannot be imported ({error})") from error
    return Flavour(name, module, module.__version__)


def choose_flavour(name: str, gpu: Gpu | None) -> Flavour:
    """The flavour of that name, or with "auto" the first that imports and knows the GPU (no GPU: that builds ahead of
    time). Raises EngineError that says why each was left out."""
    reasons = []
    for candidate in FLAVOURS if name == "auto" else (name,):
        try:
            flavour = load_flavour(candidate)
        except EngineError as error:
            reasons.append(str(error))
            continue
        if gpu is not None and not flavour.knows(gpu):
            reasons.append(f"{candidate} {flavour.version} does not know compute capability {gpu.capability}")
        elif gpu is None and not flavour.ahead_of_time:
            reasons.append(f"{candidate} {flavour.version} needs a GPU to build")
        else:
            return flavour
    raise EngineError("; ".join(reasons))


def make_logger(trt: ModuleType) -> Any:
    """A TensorRT logger that writes to ours and remembers the last error: TensorRT answers None where it fails."""

    class Logger(trt.ILogger):
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
