"""Checkpoints: a folder of config.json, model.safetensors (or numbered shards) and the tokenizer's files.

The config says how to build the model; the hash of the preprocessing it was trained with is kept beside it and refused
where it differs, because a model fed with other pixels fails silently.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from ..configuration import build, leaves
from ..regular_file import open_regular, write_whole
from .architecture import without_code
from .checkpoint_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    StoredTensor,
    WeightsFile,
    check_regular,
    load_tokenizer,
    read_content,
    weight_files,
)
from .config import ConfigError, DeformableConfig, ModelConfig, RoIAlignConfig
from .gpt4roi import GPT4RoI
from .preprocess import preprocess_hash
from .prompt import IMAGE_PATCH, PromptBuilder, PromptError
from .qwen3_vl import MODEL_TYPE, Qwen3VL, Qwen3VLConfig
from .qwen3_vl_folder import check_content, read_qwen3_vl, write_qwen3_vl_config
from .region_replay import RegionReplay
from .region_words import RegionReplayPrompts, RegionWordPrompts

__all__ = ["CONFIG_FILE", "CheckpointError", "LoadedModel", "LoadedQwen3VL", "VERSION", "WEIGHTS_FILE", "build_empty",
           "build_model", "check_regular", "find_weights", "folder_version", "load_any", "load_checkpoint",
           "load_tokenizer", "put_weight", "read_any_config", "read_config", "read_weights", "save_checkpoint",
           "tied_keys", "unshared", "untrained_parts", "weight_files", "write_config"]

VERSION = 2
_BLOCK, _BLOCKS = 1 << 16, 256  # bytes, and how many such of a file at least, that tell two versions apart


class LoadedModel(NamedTuple):
    """A model with everything that is needed to use it."""

    model: GPT4RoI
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptBuilder

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config


class LoadedQwen3VL(NamedTuple):
    """A Qwen3-VL of transformers with everything that is needed to use it."""

    model: Qwen3VL
    tokenizer: PreTrainedTokenizerBase
    prompts: RegionWordPrompts

    @property
    def config(self) -> Qwen3VLConfig:
        """The model's."""
        return self.model.config


def build_model(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> LoadedModel:
    """A model of random weights for a tokenizer that knows the special tokens.

    Raises ConfigError where the tokenizer has ids that the language model has no embedding for.
    """
    rows = config.language.model.get("vocab_size")
    if rows is not None and rows < len(tokenizer):
        raise ConfigError(f"language.model.vocab_size is {rows}, expected at least the tokenizer's {len(tokenizer)}")
    model = GPT4RoI(config, tokenizer.convert_tokens_to_ids(IMAGE_PATCH))
    return LoadedModel(model, tokenizer, PromptBuilder(tokenizer, config, model.vision.token_count))


def save_checkpoint(model: GPT4RoI | Qwen3VL, tokenizer: PreTrainedTokenizerBase, folder: str | Path,
                    dtype: torch.dtype | None = None, untrained: Sequence[str] = ()) -> None:
    """Writes a checkpoint folder; the weights appear under their name only when they are whole.

    Args:
        model: The model; a Qwen3-VL is written as transformers writes it, with what this package adds.
        tokenizer: Its tokenizer.
        folder: The folder.
        dtype: Store floating-point weights in this format; None: as they are.
        untrained: Parts of the model whose weights are still random.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {model.stored_name(key): value.to(dtype) if dtype and value.is_floating_point() else value
            for key, value in unshared(model.state_dict()).items()}
    partial = folder / (WEIGHTS_FILE + ".partial")
    save_file(kept, partial, metadata={"format": "ros_gpt4roi", "version": str(VERSION)})
    partial.chmod(0o644)  # safetensors writes for its user only, and robots load what others installed
    os.replace(partial, folder / WEIGHTS_FILE)
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    tokenizer.save_pretrained(folder)
    if isinstance(model, Qwen3VL):
        write_qwen3_vl_config(model.config, folder)
    else:
        write_config(model.config, folder, untrained)


def write_config(config: ModelConfig, folder: Path, untrained: Sequence[str] = (),
                 base: Mapping[str, str] | None = None) -> None:
    """Writes config.json, the file that makes a folder a checkpoint: the last one to be written.

    Args:
        config: The model.
        folder: The checkpoint.
        untrained: Parts of the model whose weights are still random.
        base: What is needed to complete it (`without_base.py`); None: it is whole.
    """
    content = {"format": "ros_gpt4roi", "version": VERSION, "preprocess_hash": preprocess_hash(config.preprocess),
             **({"untrained": list(untrained)} if untrained else {}), **({"base": dict(base)} if base else {}),
             "model": config.to_dict()}
    write_whole(folder / CONFIG_FILE, (json.dumps(content, indent=2) + "\n").encode())


def unshared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as safetensors take them: contiguous, on the CPU, and one of those that share memory (tied embeddings).

    Loading ties them again.
    """
    kept, places = {}, set()
    for key, value in state.items():
        place = (value.data_ptr(), value.shape, value.stride())
        if value.numel() and place in places:
            continue
        places.add(place)
        kept[key] = value.detach().contiguous().cpu()
    return kept


def untrained_parts(folder: str | Path) -> frozenset[str]:
    """Parts of a checkpoint whose weights are still random, such as "regions". Raises CheckpointError."""
    parts = _own_content(Path(folder) / CONFIG_FILE).get("untrained", [])
    return frozenset(map(str, parts)) if isinstance(parts, list) else frozenset()


def read_config(folder: str | Path, *, whole: bool = True) -> ModelConfig:
    """The model config of a checkpoint folder, after its version and preprocessing have been checked.

    Args:
        folder: The checkpoint.
        whole: Refuse one without its language model (`without_base.py`).

    Raises:
        CheckpointError: It is no checkpoint that can be used.
    """
    path = Path(folder) / CONFIG_FILE
    content = _own_content(path)
    if content.get("version") not in (1, VERSION):
        raise CheckpointError(f"{path}: checkpoint version {content.get('version')!r}, expected {VERSION}")
    if whole and "base" in content:
        raise CheckpointError(f"{path}: without its language model, expected what `python -m ros_gpt4roi.model "
                              f"complete {folder}` makes of it")
    try:
        model = content.get("model", {})
        config = build(ModelConfig, _from_version_1(model) if content["version"] == 1 else model)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    expected = preprocess_hash(config.preprocess)
    if content.get("preprocess_hash") != expected:
        raise CheckpointError(f"{path}: trained with preprocessing {content.get('preprocess_hash')}, "
                              f"expected {expected}, which this program's preprocess.py does")
    return config


def _own_content(path: Path) -> dict[str, Any]:
    content = read_content(path.parent)
    if content.get("format") != "ros_gpt4roi":
        raise CheckpointError(f"{path}: not a ros_gpt4roi checkpoint, expected \"format\": \"ros_gpt4roi\"")
    return content


def _from_version_1(model: dict[str, Any]) -> dict[str, Any]:
    """The sections of a config of version 1, which held the fields of all region extractors, as they are now.

    What had no effect is left out: fields of another extractor, and repeated embeddings where they were off. So are
    what transformers noted in the configurations of its networks, such as `_name_or_path`.
    """
    if not all(isinstance(model.get(name, {}), dict) for name in ("vision", "regions", "language", "prompt")):
        return model
    regions, prompt = dict(model.get("regions", {})), dict(model.get("prompt", {}))
    upgraded = {**model, "regions": regions, "prompt": prompt}
    for name, field in (("vision", "encoder"), ("language", "model")):
        if isinstance(network := model.get(name, {}).get(field), dict):
            upgraded[name] = {**model[name], field: without_code(network)}
    if "point_size" in regions:
        upgraded["points"] = {"size": regions.pop("point_size")}
    scale, size = regions.pop("focal", 0), regions.pop("focal_size", 0)
    if scale:
        upgraded["focal"] = {"scale": scale, "size": size}
    pyramid, deformable = ({item.name for item in leaves(kind)} for kind in (RoIAlignConfig, DeformableConfig))
    for name in pyramid - deformable if regions.get("kind") == "deformable" else deformable - pyramid:
        regions.pop(name, None)
    if prompt.get("repeat_embeddings") is False:
        del prompt["repeat_embeddings"]
    return upgraded


def folder_version(folder: str | Path) -> str:
    """Name a checkpoint so that two are told apart, by the name of its folder and its files.

    Hashing whole files would keep a robot waiting for half a minute at every start; training changes all of them.

    Args:
        folder: A checkpoint folder.

    Returns:
        NAME@DIGITS: twelve hexadecimal digits of the SHA-256 of its config, its tokenizer, and at least 16 MiB of each
        file of weights, spread over all of it.

    Raises:
        OSError: A file cannot be read.
    """
    folder = Path(folder).resolve()
    digest = hashlib.sha256()
    for path in sorted({folder / CONFIG_FILE, *folder.glob("tokenizer*.json"), *folder.glob("*.safetensors")}):
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{path.name} {size}\n".encode())
            step = max(_BLOCK, size // _BLOCKS)
            for place in range(0, size, step):
                file.seek(place)
                digest.update(file.read(_BLOCK))
    return f"{folder.name}@{digest.hexdigest()[:12]}"


def load_checkpoint(folder: str | Path, device: str | torch.device = "cpu",
                    dtype: torch.dtype | None = torch.float32) -> LoadedModel:
    """Loads a checkpoint folder for inference.

    Args:
        folder: A checkpoint of this package.
        device: Where the model goes.
        dtype: Number format of the weights (None: as stored). Weights go to the device tensor by tensor.

    Raises:
        CheckpointError: Files are missing, truncated, of another version, or do not fit the config: all missing,
            surplus and misshapen weights are listed at once.
    """
    loaded = build_empty(folder := Path(folder))
    if not isinstance(loaded, LoadedModel):
        raise CheckpointError(f"{folder}: a {MODEL_TYPE} of transformers, expected a checkpoint of this package")
    _fill(loaded.model, folder, device, dtype)
    return loaded


def read_any_config(folder: str | Path) -> ModelConfig | Qwen3VLConfig:
    """The model config of any folder that `build_empty` takes. Raises CheckpointError."""
    folder = Path(folder)
    content = read_content(folder)
    if "format" in content or "model_type" not in content:
        return read_config(folder)
    check_content(folder / CONFIG_FILE, content)
    return read_qwen3_vl(folder, content, load_tokenizer(folder))


def build_empty(folder: Path) -> LoadedModel | LoadedQwen3VL:
    """The model of a folder on the meta device, for `read_weights` to fill.

    Args:
        folder: A checkpoint of this package, or a Qwen3-VL as transformers saves it.

    Raises:
        CheckpointError: It is neither, or does not fit itself.
    """
    try:
        config, tokenizer = read_any_config(folder), load_tokenizer(folder)
        if isinstance(config, ModelConfig):
            with init_empty_weights(include_buffers=False):
                return build_model(config, tokenizer)
        with init_empty_weights(include_buffers=False):
            return LoadedQwen3VL(Qwen3VL(config), tokenizer, word_prompts(tokenizer, config))
    except CheckpointError:
        raise
    except (ConfigError, PromptError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # transformers looks at few of the numbers before it uses them.
        raise CheckpointError(f"{folder / CONFIG_FILE}: describes a network that cannot be made: "
                              f"{type(error).__name__}: {error}") from error


def word_prompts(tokenizer: PreTrainedTokenizerBase, config: Qwen3VLConfig) -> RegionWordPrompts:
    """The prompts of a Qwen3-VL. Raises PromptError where its tokenizer lacks one of their tokens."""
    if isinstance(config.regions, RegionReplay):
        return RegionReplayPrompts(tokenizer, config.prompt, config.regions.embeddings)
    return RegionWordPrompts(tokenizer, config.prompt)


def load_any(folder: str | Path, device: str | torch.device = "cpu",
             dtype: torch.dtype | None = torch.float32) -> LoadedModel | LoadedQwen3VL:
    """As `load_checkpoint`, of any folder that `build_empty` takes."""
    loaded = build_empty(folder := Path(folder))
    _fill(loaded.model, folder, device, dtype)
    return loaded


def _fill(model: GPT4RoI | Qwen3VL, folder: Path, device: str | torch.device, dtype: torch.dtype | None) -> None:
    read_weights(model, find_weights(model, weight_files(folder)), device, dtype)
    model.language.tie_weights()
    model.to(device).eval()


def find_weights(model: GPT4RoI | Qwen3VL, files: list[Path], language: bool = True) -> dict[str, StoredTensor]:
    """Where the weights of a model lie, by their keys in the model; none is read.

    Args:
        model: The model.
        files: safetensors files.
        language: Look for the language model's weights, too.

    Raises:
        CheckpointError: As of `load_checkpoint`.
    """
    def left_out(key: str) -> bool:
        return not language and key.startswith("language.")

    expected = {key: value.shape for key, value in model.state_dict().items() if not left_out(key)}
    optional = tied_keys(model)
    problems: list[str] = []
    found: dict[str, StoredTensor] = {}
    for path in files:
        for stored, tensor in WeightsFile.open(path).tensors.items():
            key = model.weight_name(stored)
            if left_out(key):
                continue
            if key not in expected:
                problems.append(f"{stored}: not part of this model")
            elif tensor.shape != expected[key]:
                problems.append(f"{stored}: {list(tensor.shape)}, expected {list(expected[key])}")
            else:
                found[key] = tensor
    problems += [f"{key}: missing, expected {list(shape)}" for key, shape in expected.items()
                 if key not in found and key not in optional]
    if problems:
        raise CheckpointError(f"{files[0].parent}: weights do not fit the config:\n  " + "\n  ".join(problems))
    return found


def read_weights(model: torch.nn.Module, weights: Mapping[str, StoredTensor], device: str | torch.device,
                 dtype: torch.dtype | None) -> None:
    """Fills places of a model that was built on the meta device.

    Args:
        model: The model.
        weights: From `find_weights`.
        device: Where the weights go, tensor by tensor.
        dtype: Their number format; None: as stored.

    Raises:
        CheckpointError: A file is damaged.
    """
    for key, stored in weights.items():
        value = stored.read()
        kept = dtype if dtype is not None and value.is_floating_point() else value.dtype
        put_weight(model, key, value.to(device, kept))


def tied_keys(model: GPT4RoI | Qwen3VL) -> set[str]:
    """Keys that a file may lack: weights of the language model that are another one's by its config."""
    return {f"language.{key}" for key in getattr(model.language, "all_tied_weights_keys", {})}


def put_weight(model: torch.nn.Module, key: str, value: torch.Tensor) -> None:
    """Puts a value in the place of a parameter or buffer of the meta device, as it is: without a copy."""
    path, _, name = key.rpartition(".")
    owner = model.get_submodule(path)
    if name in owner._buffers:
        owner._buffers[name] = value
    else:
        learned = owner.get_parameter(name).requires_grad
        owner._parameters[name] = torch.nn.Parameter(value, requires_grad=learned)
