"""What engines are built for: build profiles, one YAML file a GPU class in engines/, and a deployment's options."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..configuration import Configuration, setting
from ..paths import find
from ..regular_file import read_regular
from . import EngineError
from .cache import EngineCache
from .precision.calibration import default_frames_folder

# From fastest to safest; a refused engine is tried again one further to the right.
PRECISIONS = ("fp8", "int8", "fp16", "bf16", "fp32")
_FIRST_CAPABILITY = {"fp8": (8, 9), "int8": (7, 5), "fp16": (7, 0), "bf16": (8, 0), "fp32": (0, 0)}


@dataclass(frozen=True)
class EngineProfile:
    """How to build and run the engine of a GPU class.

    name: of the file. match: regular expression that fits the GPUs' names. library: "tensorrt", "tensorrt_rtx", or
        "auto" for the first of them that imports and supports the GPU.
    precision: the first one to try, of PRECISIONS.
    usual_frames, max_frames, usual_regions, max_regions: shapes the engine is tuned for, and the largest it takes;
        the smallest is one frame with one region.
    graph_regions: numbers of regions for which a CUDA graph is captured; others are padded up to the next of them.
    compute_capabilities: of tensorrt_rtx only: build ahead of time for these, such as "SM89" (empty: for the GPU of
        this machine, or where there is none for all that the library knows).
    workspace_mib: scratch memory a layer may ask for. memory_limit_mib: of the building process.
    reserve_mib: system memory that has to stay available while building, whoever uses the rest.
    timeout_s: limit of one build; also how long to wait for another process that builds the same.
    """

    name: str
    match: str = ""
    library: str = "auto"
    precision: str = "fp16"
    usual_frames: int = 1
    max_frames: int = 4
    usual_regions: int = 8
    max_regions: int = 64
    graph_regions: tuple[int, ...] = (1, 4, 8, 16, 32)
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int = 1024
    memory_limit_mib: int = 16384
    reserve_mib: int = 1024
    timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        if self.library not in ("auto", "tensorrt", "tensorrt_rtx"):
            raise EngineError(f"{self.name}: library is {self.library!r}, expected auto, tensorrt or tensorrt_rtx")
        if self.precision not in PRECISIONS:
            raise EngineError(f"{self.name}: precision is {self.precision!r}, expected one of {PRECISIONS}")
        for of in ("frames", "regions"):
            usual, most = getattr(self, f"usual_{of}"), getattr(self, f"max_{of}")
            if not 1 <= usual <= most:
                raise EngineError(f"{self.name}: usual_{of} {usual}, max_{of} {most}, expected 1 ≤ usual ≤ max")
        if any(not 1 <= n <= self.max_regions for n in self.graph_regions):
            raise EngineError(f"{self.name}: graph_regions {self.graph_regions}, expected 1..{self.max_regions}")

    @property
    def shapes(self) -> str:
        """What of this profile is built into a plan, as text; part of an engine's key."""
        return (f"frames 1..{self.usual_frames}..{self.max_frames} regions 1..{self.usual_regions}..{self.max_regions} "
                f"workspace {self.workspace_mib} MiB")


def read_profile(path: Path) -> EngineProfile:
    """Reads a profile file.

    Raises:
        EngineError: names the file and the field.
    """
    try:
        values = yaml.safe_load(read_regular(path)) or {}
    except (OSError, yaml.YAMLError) as error:
        raise EngineError(f"{path}: {error}, expected an engine profile") from error
    known = {f.name for f in dataclasses.fields(EngineProfile)} - {"name"}
    if not isinstance(values, dict) or set(values) - known:
        found = sorted(set(values) - known) if isinstance(values, dict) else values
        raise EngineError(f"{path}: unknown field {found}, expected some of {sorted(known)}")
    try:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return EngineProfile(path.stem, **fields)
    except TypeError as error:
        raise EngineError(f"{path}: a field has the wrong type ({error})") from error


def find_profile(name: str, gpu_name: str | None = None) -> EngineProfile:
    """A profile by file path, by name ("orin"), or with name "auto" the first that fits the GPU (else the defaults).

    Raises:
        EngineError: there is no such profile.
    """
    if name.endswith((".yaml", ".yml")):
        return read_profile(Path(name))
    try:
        files = sorted(find("engines").glob("*.yaml"))
    except FileNotFoundError as error:
        raise EngineError(str(error)) from error
    if name != "auto":
        for path in files:
            if path.stem == name:
                return read_profile(path)
        known = [path.stem for path in files]
        raise EngineError(f"engine profile {name!r} not found, expected one of {known} or a .yaml file")
    for path in files:
        profile = read_profile(path)
        if gpu_name and profile.match and re.search(profile.match, gpu_name, re.IGNORECASE):
            return profile
    return EngineProfile("default")


def fallback_precisions(first: str, capability: tuple[int, int] | None) -> list[str]:
    """The precisions to try in order, from `first` to the safest, as far as the hardware has them.

    capability: the GPU's compute capability, None where it is not known (building ahead of time).
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
    cache: str = setting("", "Folder of engines; empty: ~/.cache/ros_gpt4roi/engines.", fixed=True)
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
