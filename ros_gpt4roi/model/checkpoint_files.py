"""Files of a model's folder: what is read from them before anything of the model is built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..regular_file import read_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
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
    """A tensor of a safetensors file, which is read when it is needed."""

    path: Path
    name: str
    shape: torch.Size

    def read(self) -> torch.Tensor:
        """The tensor, mapped: it takes no memory of its own, and follows whatever happens to the file.

        A file is mapped for each tensor anew, so that of all that was read only what is still held counts as memory.

        Raises:
            CheckpointError: The file is damaged.
        """
        with _opened(self.path) as archive:
            value: torch.Tensor = archive.get_tensor(self.name)
            return value


class WeightsFile(NamedTuple):
    """What the header of a safetensors file says: its tensors in the order in which they lie, and its notes."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]

    @classmethod
    def open(cls, path: Path) -> WeightsFile:
        """Read a file's header. Raises CheckpointError."""
        with _opened(path) as archive:
            return cls({name: StoredTensor(path, name, torch.Size(archive.get_slice(name).get_shape()))
                        for name in archive.offset_keys()}, archive.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as archive:
            yield archive
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({error})") from error
