"""The models that are known by name, from `catalogue.yaml`, and the memory that their weights take."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ..configuration import ConfigError, Configuration, build, nearest, setting
from ..regular_file import read_regular

FILE = Path(__file__).with_name("catalogue.yaml")
# Files that hold data and no program; a pickle (.bin, .pt) or Python file is never asked for.
SUFFIXES = (".safetensors", ".json", ".txt", ".jinja")
COMMIT = re.compile(r"[0-9a-f]{40}")
FORMATS = ("fp32", "bf16", "int8", "int4")


class ModelsError(RuntimeError):
    """A model that cannot be had; the message says why and what was expected."""


@dataclass(frozen=True)
class Parameters(Configuration):
    """How many parameters a model has, by what a number format makes of them."""

    vision: int = setting(MISSING, "Of the vision stage, which stays in fp32.", at_least=0)
    linear: int = setting(MISSING, "Of the decoder's linear layers, without the output layer.", at_least=0)
    norms: int = setting(MISSING, "Of its norms.", at_least=0)
    embedding: int = setting(MISSING, "Of its embedding; the output layer has as many.", at_least=0)
    tied: bool = setting(MISSING, "Whether the output layer has the embedding's weights.")

    @property
    def total(self) -> int:
        """All, those that are shared once."""
        return self.vision + self.linear + self.norms + self.embedding * (1 if self.tied else 2)

    def memory(self, number_format: str, gpu: bool) -> float:
        """Bytes that the weights take once they are loaded, computed.

        The activations and caches of a running model come on top.

        Args:
            number_format: Of FORMATS, for the language model; int8-dynamic takes as much as int8.
            gpu: Whether they lie on a GPU, else on a CPU (one with AVX-512 has int4 in less).
        """
        if number_format == "fp32":
            return 4 * self.total
        if number_format == "bf16":
            return 4 * self.vision + 2 * (self.total - self.vision)
        # Quantised, the output layer has weights of its own; embedding and norms stay in float (`quantise_language`).
        # int4 has a scale and a middle of 2 bytes each for 64 weights, and two layouts of the weights (`Int4Linear`).
        each = 1.0 if number_format == "int8" else 2 * 0.5 + 4 / 64
        kept = 2 if gpu else 4
        return 4 * self.vision + each * (self.linear + self.embedding) + kept * (self.embedding + self.norms)

    def loading(self, number_format: str, gpu: bool) -> float:
        """Bytes that loading takes at most, computed: what is loaded, and the largest tensor as it is stored in bf16.

        Args:
            number_format: As of `memory`.
            gpu: As of `memory`; a robot's GPU and CPU share one memory.
        """
        return self.memory(number_format, gpu) + 2 * self.embedding


@dataclass(frozen=True)
class Entry(Configuration):
    """What is known of a model."""

    about: str = setting(MISSING, "One line for people.")
    licence: str = setting(MISSING, "Its licence, by the name that SPDX has for it.")
    licence_page: str = setting(MISSING, "Where the licence can be read.")
    tried: str = setting(MISSING, "What of it was run where this package is developed, and what was not.")
    repository: str = setting("", "OWNER/NAME on the Hugging Face Hub; empty: it comes with the package.")
    revision: str = setting("", "The commit to download; empty: the newest, which is then kept to.")
    files: tuple[str, ...] = setting((), "The files that it takes, all at the top of the repository; * is any text.")
    download_bytes: int = setting(0, "What they were in all when this was written.", at_least=0)
    parameters: Parameters | None = setting(None, "Their number, of which the memory is computed.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.revision and not COMMIT.fullmatch(self.revision):
            raise ConfigError(f"revision is {self.revision!r}, expected a commit: 40 hexadecimal digits")
        for name in self.files:
            if PurePosixPath(name).name != name or not name.endswith(SUFFIXES):
                raise ConfigError(f"files has {name!r}, expected names without a folder that end in one of "
                                  f"{', '.join(SUFFIXES)}")

    @property
    def page(self) -> str:
        """Where its publisher says what it is."""
        return f"https://huggingface.co/{self.repository}"


def read_catalogue() -> dict[str, Entry]:
    """All entries by their names. Raises ConfigError where the file does not fit."""
    content: Any = yaml.safe_load(read_regular(FILE))
    entries = {}
    for name, values in content.items():
        try:
            entries[str(name)] = build(Entry, values)
        except ConfigError as error:
            raise ConfigError(f"{FILE}: {name}: {error}") from error
    return entries


def unknown(name: str, known: list[str]) -> ModelsError:
    """The error for a name that no model has."""
    return ModelsError(f"there is no model {name!r}{nearest(name, known)}; expected one of {', '.join(known)}")
