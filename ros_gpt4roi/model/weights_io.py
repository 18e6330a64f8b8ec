"""Weight files read tensor by tensor: safetensors and PyTorch's .bin shards.

Nothing here holds more than the tensor at hand (of a .bin shard of the old format: the shard).
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..regular_file import file_digest, open_regular, read_regular
from .checkpoint_files import DTYPES, CheckpointError

SUMS_FILE = "SHA256SUMS"
# Patterns of weights' names in a folder; the last is LLaVA's, of a projector alone.
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin", "mm_projector.bin")
_LONGEST_HEADER = 100_000_000  # as the format says
# Names of number formats in a safetensors header.
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WeightFileError(CheckpointError):
    """A weight file that is missing, truncated or damaged; the message names it."""


class Entry(NamedTuple):
    """Where a tensor lies and what it is. offset: of a safetensors file's tensor, bytes from the file's beginning."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int | None = None


class WeightSource:
    """The weights of one file, or of a folder: the first that it has of WEIGHT_FILES.

    entries: key → Entry, in the files' order.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        found = (sorted(self.folder.glob(pattern)) for pattern in WEIGHT_FILES)
        self.files = [self.folder] if self.folder.is_file() else next(filter(None, found), [])
        if not self.files:
            raise WeightFileError(f"{self.folder}: no weights, expected {', '.join(WEIGHT_FILES)}")
        self._open: tuple[Path, dict[str, torch.Tensor]] | None = None
        self.entries: dict[str, Entry] = {}
        for file in self.files:
            read = _safetensors_entries(file) if file.suffix == ".safetensors" else self._bin_entries(file)
            self.entries.update(read)

    def _bin_entries(self, file: Path) -> dict[str, Entry]:
        return {key: Entry(file, tuple(value.shape), value.dtype) for key, value in self._load_bin(file).items()}

    def _load_bin(self, file: Path) -> dict[str, torch.Tensor]:
        if self._open is None or self._open[0] != file:
            self._open = None  # Released before the next is loaded.
            self._open = (file, load_bin(file))
        return self._open[1]

    def read(self, key: str) -> torch.Tensor:
        """The tensor, memory-mapped (of an old .bin file: in memory). Raises WeightFileError."""
        file, shape, dtype, offset = self.entries[key]
        if offset is None:
            return self._load_bin(file)[key]
        size = torch.Size(shape).numel() * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        try:
            # Copy-on-write: nobody writes, but PyTorch has no read-only tensors.
            data = np.memmap(file, np.uint8, "c", offset, (size,))
        except (OSError, ValueError) as error:
            raise WeightFileError(f"{file}: changed while it was read ({error})") from error
        return torch.from_numpy(data).view(dtype).reshape(shape)

    def check_sums(self) -> None:
        """Compares the files with the folder's SHA256SUMS, where it has one. Raises WeightFileError."""
        sums = self.folder / SUMS_FILE
        if not sums.is_file():
            return
        lines = [line.split(maxsplit=1) for line in read_regular(sums).decode("utf-8").splitlines() if line.strip()]
        expected = {line[-1].lstrip("*"): line[0] for line in lines}
        for file in self.files:
            digest = file_digest(file) if file.name in expected else None
            if digest is not None and digest != expected[file.name]:
                raise WeightFileError(f"{file}: SHA-256 {digest}, expected {expected[file.name]} ({SUMS_FILE})")


def load_bin(file: Path) -> dict[str, torch.Tensor]:
    """A .bin shard's tensors; only tensors are unpickled, never code. Raises WeightFileError."""
    try:
        open_regular(file).close()
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            # Files of the format before PyTorch 1.6 cannot be mapped.
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise WeightFileError(f"{file}: truncated, or holds something other than tensors ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise WeightFileError(f"{file}: expected a dictionary of tensors")
    return content


def _safetensors_entries(file: Path) -> dict[str, Entry]:
    """Reads only the header, so it works on a file of any size."""
    try:
        with open_regular(file) as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            size = os.fstat(stream.fileno()).st_size
            if 8 + length > size or length > _LONGEST_HEADER:
                raise ValueError(f"header of {length} bytes in a file of {size}")
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            entries = {key: Entry(file, tuple(entry["shape"]), DTYPES[entry["dtype"]],
                                  8 + length + entry["data_offsets"][0])
                       for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"])}
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            if 8 + length + end != size:
                raise ValueError(f"{size} bytes, expected {8 + length + end}")
            for key, entry in header.items():
                begin, end = entry["data_offsets"]
                if any(type(number) is not int or number < 0 for number in (begin, *entries[key].shape)):
                    raise ValueError(f"{key} has shape {entry['shape']} at {begin}, expected whole numbers from 0")
                if end - begin != torch.Size(entries[key].shape).numel() * entries[key].dtype.itemsize:
                    raise ValueError(f"{key} has {end - begin} bytes, "
                                     f"expected those of {entry['dtype']} {entry['shape']}")
            return entries
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise WeightFileError(f"{file}: truncated or not a safetensors file ({error})") from error
