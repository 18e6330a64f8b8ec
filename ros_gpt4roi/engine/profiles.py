"""What engines are built for: build profiles, one YAML file a GPU class in engines/, and a deployment's options."""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass
from pathlib import Path

from ..configuration import ConfigError, Configuration, read_yaml, setting
from ..paths import find
from . import EngineError
from .build_process import Limits
from .cache import EngineCache
from .precision.calibration import default_frames_folder

# From fastest to safest; a refused engine is tried again one further to the right.
PRECISIONS = ("fp8", "int8", "fp16", "bf16", "fp32")
_FIRST_CAPABILITY = {"fp8": (8, 9), "int8": (7, 5), "fp16": (7, 0), "bf16": (8, 0), "fp32": (0, 0)}
_SIZE = re.compile(r"[1-9]\d{1,4}x[1-9]\d{1,4}")


@dataclass(frozen=True)
class EngineProfile(Configuration):
    """How to build and run the engine of a GPU class."""

    name: str = setting(dataclasses.MISSING, "Name of the profile: that of its file, not a field in it.")
    match: str = setting("", "Regular expression that fits the GPUs' names.")
    library: str = setting("auto", "Library; auto takes the first that imports and supports the GPU.",
                           choices=("auto", "tensorrt", "tensorrt_rtx"))
    precision: str = setting("fp16", "First precision to try; a refused engine is built again in a safer one.",
                             choices=PRECISIONS)
    # The smallest shape is one frame with one region.
    usual_frames: int = setting(1, "Frames at a time that the engine is tuned for.", at_least=1)
    max_frames: int = setting(4, "Most frames at a time.", at_least=1)
    usual_regions: int = setting(8, "Regions a frame that the engine is tuned for.", at_least=1)
    max_regions: int = setting(64, "Most regions a frame.", at_least=1)
    graph_regions: tuple[int, ...] = setting(
        (1, 4, 8, 16, 32), "Numbers of regions for which a CUDA graph is captured; others are padded up to the next of "
                           "them.", at_least=1)
    pictures: tuple[str, ...] = setting(
        ("640x480", "848x480", "1280x720"), "Sizes of camera frames, WIDTHxHEIGHT, that the engine of a model which "
                                            "takes pictures of any size is built for.")
    compute_capabilities: tuple[str, ...] = setting(
        (), "Of tensorrt_rtx only: build ahead of time for these, such as SM89; empty: for the GPU of this machine, or "
            "where there is none for all that the library knows.")
    workspace_mib: int = setting(1024, "Scratch memory that a layer may ask for.", at_least=1, unit="MiB")
    memory_limit_mib: int = setting(16384, "Most memory of the building process.", at_least=1, unit="MiB")
    reserve_mib: int = setting(1024, "System memory that has to stay available while building.", at_least=0, unit="MiB")
    timeout_s: float = setting(1800.0, "Limit of one build, and of waiting for another process that builds the same.",
                               more_than=0, unit="seconds")

    def __post_init__(self) -> None:
        super().__post_init__()
        for of in ("frames", "regions"):
            usual, most = getattr(self, f"usual_{of}"), getattr(self, f"max_{of}")
            if usual > most:
                raise ConfigError(f"usual_{of} is {usual}, expected at most max_{of}={most}")
        if any(count > self.max_regions for count in self.graph_regions):
            raise ConfigError(f"graph_regions is {self.graph_regions}, expected at most max_regions={self.max_regions}")

        for size in self.pictures:
            if not _SIZE.fullmatch(size):
                raise ConfigError(f"pictures has {size!r}, expected WIDTHxHEIGHT in pixels, such as 640x480")
        if not self.pictures:
            raise ConfigError("pictures is empty, expected at least one size")

    @property
    def picture_sizes(self) -> list[tuple[int, int]]:
        """Heights and widths of `pictures`."""
        return [(int(height), int(width)) for width, height in (size.split("x") for size in self.pictures)]

    @property
    def limits(self) -> Limits:
        """Of the child process that builds."""
        return Limits(self.memory_limit_mib, self.reserve_mib, self.timeout_s)

    @property
    def shapes(self) -> str:
        """What of this profile is built into a plan of frames and regions, as text; part of an engine's key."""
        return (f"frames 1..{self.usual_frames}..{self.max_frames} regions 1..{self.usual_regions}..{self.max_regions} "
                f"workspace {self.workspace_mib} MiB")


def read_profile(path: Path) -> EngineProfile:
    """Reads a profile file.

    Raises:
        EngineError: names the file and the field.
    """
    try:
        return read_yaml(functools.partial(EngineProfile, path.stem), path)
    except ConfigError as error:
        raise EngineError(str(error)) from error


def find_profile(name: str, gpu_name: str | None = None) -> EngineProfile:
    """A profile by file path, by name ("orin"), or with name "auto" the first that fits the GPU (else the defaults).

    Raises:
        EngineError: there is no such profile.
    """
    if name.endswith((".yaml", ".yml")):
        return read_profile(Path(name))
    try:
        files = {path.stem: path for path in sorted(find("engines").glob("*.yaml"))}
    except FileNotFoundError as error:
        raise EngineError(str(error)) from error
    if name in files:
        return read_profile(files[name])
    if name != "auto":
        raise EngineError(f"engine profile {name!r} not found, expected one of {list(files)} or a .yaml file")
    for profile in map(read_profile, files.values()):
        if gpu_name and profile.match and re.search(profile.match, gpu_name, re.IGNORECASE):
            return profile
    return EngineProfile("default")


def fallback_precisions(first: str, capability: tuple[int, int] | None) -> list[str]:
    """The precisions to try in order, from `first` to the safest, as far as the hardware has them.

    Args:
        first: One of `PRECISIONS`.
        capability: The GPU's compute capability, None where it is not known (building ahead of time).
    """
    chosen = PRECISIONS[PRECISIONS.index(first):]
    return [p for p in chosen if capability is None or capability >= _FIRST_CAPABILITY[p]]


@dataclass(frozen=True)
class EngineOptions(Configuration):
    """What a deployment says about engines."""

    build: str = setting("auto", "auto builds what is missing when the node is configured, never refuses to.",
                         choices=("auto", "never"))
    profile: str = setting("auto", "Name or path of a build profile; auto chooses by the GPU.")
    precision: str = setting("", "First precision to try, instead of the profile's.", choices=("", *PRECISIONS))
    cache: str = setting("", "Folder of engines and quantised models; empty: ~/.cache/ros_gpt4roi/engines.", fixed=True)
    frames: str = setting("", "Folder of frames to calibrate and check engines with; empty: the package's own.")

    def open_cache(self) -> EngineCache:
        """The cache that `cache` names."""
        return EngineCache(Path(self.cache).expanduser() if self.cache else None)

    def find_profile(self, gpu_name: str | None) -> EngineProfile:
        """The profile for a GPU, with this deployment's precision."""
        profile = find_profile(self.profile, gpu_name)
        return dataclasses.replace(profile, precision=self.precision) if self.precision else profile

    @property
    def frames_folder(self) -> Path:
        """The folder that `frames` names."""
        return Path(self.frames).expanduser() if self.frames else default_frames_folder()
