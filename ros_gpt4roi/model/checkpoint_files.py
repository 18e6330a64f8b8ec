"""Files of a model's folder: what is read from them before anything of the model is built."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..regular_file import open_regular, read_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
# Number formats by their names in a safetensors header.
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64,
          "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "tekken.json")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the file, what it holds and what was expected."""


def read_content(folder: Path) -> dict[str, Any]:
    """The object in a folder's config.json. Raises CheckpointError."""
    check_regular(folder)
    if (folder / ADAPTER_CONFIG_FILE).is_file() and not (folder / CONFIG_FILE).exists():
        raise CheckpointError(f"{folder}: an adapter, expected the model that it is for; adapters go to "
                              "pipeline.adapters, or to load_model while that model runs")
    return read_object(folder / CONFIG_FILE)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError."""
    try:
        content = read_json(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}, expected a checkpoint folder with {path.name}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object but a {type(content).__name__}")
    return content


def check_regular(folder: str | Path) -> None:
    """Refuse a folder with a pipe, device or socket in it: who opens such a file may wait for ever.

    Raises:
        CheckpointError: It has one, or a link to one.
    """
    if (folder := Path(folder)).is_dir():
        for path in folder.iterdir():
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise CheckpointError(f"{path}: no regular file")


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder, from its own files only. Raises CheckpointError."""
    check_regular(folder)
    if not any(file for pattern in _TOKENIZER_FILES for file in Path(folder).glob(pattern)):
        # Of some architectures transformers makes an empty tokenizer of nothing.
        raise CheckpointError(f"{folder}: no usable tokenizer, expected a file such as {_TOKENIZER_FILES[0]}")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (LookupError, TypeError, AttributeError, RecursionError, StrictDataclassError) as error:
        # transformers reads the config as well, and looks at little of either before it uses it.
        raise CheckpointError(f"{folder}: no usable tokenizer or {CONFIG_FILE} ({type(error).__name__}: {error})") \
            from error
    except (OSError, ValueError, ImportError) as error:
        if (Path(folder) / "tokenizer.model").is_file() and find_spec("sentencepiece") is None:
            # transformers' own message names the package of another format.
            raise CheckpointError(f"{folder}: tokenizer.model is SentencePiece's, which takes its package: pip install "
                                  "sentencepiece") from error
        raise CheckpointError(f"{folder}: no usable tokenizer ({error})") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder.

    Raises:
        CheckpointError: There are none, or fewer than its index names.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if (folder / INDEX_FILE).is_file():
        named = read_object(folder / INDEX_FILE).get("weight_map")
        wanted = {str(name) for name in named.values()} if isinstance(named, dict) else set()
        if missing := sorted(wanted - {file.name for file in files}):
            raise CheckpointError(f"{folder}: half downloaded or copied, {len(missing)} of the {len(wanted)} files of "
                                  f"weights that {INDEX_FILE} names are missing: {', '.join(missing[:4])}")
    if not files:
        raise CheckpointError(f"{folder}: no weights, expected {WEIGHTS_FILE}")
    return files


class StoredTensor(NamedTuple):
    """A tensor of a safetensors file, which is read when it is needed.

    Attributes:
        path: The file.
        name: The tensor's in it.
        shape: Its shape.
        dtype: Its number format.
        offset: Bytes before it in the file.
        state: What tells whether the file is still the one that was opened.
    """

    path: Path
    name: str
    shape: torch.Size
    dtype: torch.dtype
    offset: int
    state: tuple[int, ...]

    def read(self) -> torch.Tensor:
        """The tensor, in memory of its own.

        It is not mapped: where a file is cut while it is mapped, or its disk goes, the process ends.

        Raises:
            CheckpointError: The file cannot be read, or has changed since its header was.
        """
        data = torch.empty(self.shape.numel() * self.dtype.itemsize, dtype=torch.uint8)
        try:
            with open_regular(self.path) as file:
                file.seek(self.offset)
                whole = file.readinto(cast(Any, data.numpy())) == len(data)
                if not whole or _state(file.fileno()) != self.state:
                    raise CheckpointError(f"{self.path}: changed while it was read")
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror}, while it was read") from error
        return data.view(self.dtype).reshape(self.shape)


def _state(descriptor: int) -> tuple[int, ...]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class WeightsFile(NamedTuple):
    """What the header of a safetensors file says: its tensors in the order in which they lie, and its notes."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]

    @classmethod
    def open(cls, path: Path) -> WeightsFile:
        """Read a file's header. Raises CheckpointError."""
        tensors: dict[str, StoredTensor] = {}
        try:
            with open_regular(path) as file, safe_open(path, framework="pt", device="cpu") as archive:
                state = _state(file.fileno())
                offset = 8 + int.from_bytes(file.read(8), "little")  # what follows has no gaps, or is not opened
                for name in archive.offset_keys():
                    part = archive.get_slice(name)
                    shape, dtype = torch.Size(part.get_shape()), DTYPES.get(part.get_dtype())
                    if dtype is None:
                        raise CheckpointError(f"{path}: {name} is {part.get_dtype()}, expected {', '.join(DTYPES)}")
                    tensors[name] = StoredTensor(path, name, shape, dtype, offset, state)
                    offset += shape.numel() * dtype.itemsize
                return cls(tensors, archive.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: truncated or not a safetensors file ({error})") from error
