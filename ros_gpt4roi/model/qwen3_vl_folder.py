"""What a Qwen3-VL folder of transformers says of its model, checked before anything is built of it.

The chat template that comes with it is never run: prompts have this package's own form, which is Qwen's.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from ..configuration import ConfigError, build
from ..regular_file import read_regular, write_whole
from .architecture import architecture, without_code
from .checkpoint_files import CONFIG_FILE, CheckpointError, read_object
from .config import PromptConfig
from .qwen3_vl import MODEL_TYPE, PixelBudget, Qwen3VLConfig
from .region_replay import RegionReplay
from .region_words import (
    DESCRIBE,
    IMAGE_MARKS,
    IMAGE_TEXT,
    PREAMBLE,
    REPLAY_PREAMBLE,
    REPLAY_SEPARATOR,
    SEPARATOR,
)

_log = logging.getLogger(__name__)

# Longer conversations are cut: beyond this, caches grow and answers do not get better on a robot.
_CONTEXT = 8192
_FORMAT = "chatml"
PROCESSOR_FILE = "preprocessor_config.json"
#: The field of config.json that says how regions are shown to the model; without it, as words.
OWN_FIELD = "ros_gpt4roi"
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
# A template that has one reaches for Python's own objects.
_INTERNALS = re.compile(r"__\w+__")
_PARTS = ("vision_config", "text_config")


def check_content(path: Path, content: dict[str, Any]) -> None:
    """Refuse a configuration that no model may be built of.

    Args:
        path: The folder's config.json.
        content: What it holds.

    Raises:
        CheckpointError: It is of another architecture, brings code, is of a newer version, or describes no model.
    """
    if content["model_type"] != MODEL_TYPE:
        raise CheckpointError(f"{path}: a {content['model_type']} of transformers, expected a {MODEL_TYPE} or a "
                              "checkpoint of this package (\"format\": \"ros_gpt4roi\")")
    if "auto_map" in content:
        raise CheckpointError(f"{path}: auto_map names code to run, expected none: remote code is not run")
    if "quantization_config" in content:
        method = content["quantization_config"]
        method = method.get("quant_method") if isinstance(method, dict) else method
        raise CheckpointError(f"{path}: weights are quantised by {method!r}, expected the folder of the model as it "
                              "was trained; this package quantises it itself (pipeline.language_format)")
    content = network_fields(content)
    _check_version(path, content)
    for part in _PARTS:
        if not isinstance(content.get(part), dict):
            raise CheckpointError(f"{path}: {part} is {content.get(part)!r}, expected a mapping")
    try:
        architecture(path.name, without_code(content))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_qwen3_vl(folder: Path, content: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """The configuration of a folder's model.

    Args:
        folder: As transformers has written it.
        content: What its config.json holds, after `check_content`.
        tokenizer: Its tokenizer.

    Raises:
        CheckpointError: Its chat template runs code, or its files do not fit each other.
    """
    path = folder / CONFIG_FILE
    _check_template(folder, tokenizer)
    vocabulary, marks = tokenizer.get_vocab(), ("vision_start_token_id", "image_token_id", "vision_end_token_id")
    for field, token in zip(marks, IMAGE_MARKS):
        if field in content and vocabulary.get(token) != content[field]:
            raise CheckpointError(f"{folder}: the tokenizer has {token!r} as {vocabulary.get(token)}, expected "
                                  f"{content[field]}, the {field} of {CONFIG_FILE}")
    rows = content["text_config"].get("vocab_size", 0)
    if isinstance(rows, int) and 0 < rows < len(tokenizer):
        raise CheckpointError(f"{path}: text_config.vocab_size is {rows}, expected at least the tokenizer's "
                              f"{len(tokenizer)}")
    longest = content["text_config"].get("max_position_embeddings")
    context = min(_CONTEXT, longest) if isinstance(longest, int) else _CONTEXT
    prompt = PromptConfig(template=_FORMAT, image_text=IMAGE_TEXT, preamble=PREAMBLE, separator=SEPARATOR,
                          describe=DESCRIBE, context=context)
    try:
        config = build(Qwen3VLConfig, {**_own(path, content), "network": without_code(network_fields(content)),
                                       "preprocess": _budget(folder, content["vision_config"])})
    except ConfigError as error:
        raise CheckpointError(f"{path}: {OWN_FIELD}: {error}") from error
    if isinstance(config.regions, RegionReplay):
        # What is replayed may take half of the context.
        most = max(1, min(prompt.max_regions, context // 2 // config.regions.embeddings))
        prompt = replace(prompt, preamble=REPLAY_PREAMBLE, separator=REPLAY_SEPARATOR, max_regions=most)
    return replace(config, prompt=prompt)


def write_qwen3_vl_config(config: Qwen3VLConfig, folder: Path) -> None:
    """Write what `read_qwen3_vl` reads beside the tokenizer; config.json comes last and makes the folder a model.

    Args:
        config: The model's.
        folder: Where its weights and its tokenizer lie.
    """
    sizes = config.preprocess
    processor = {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": sizes.patch,
                 "merge_size": sizes.merge, "temporal_patch_size": sizes.frames,
                 "size": {"shortest_edge": sizes.least, "longest_edge": sizes.most},
                 "image_mean": sizes.mean, "image_std": sizes.std}
    own = {OWN_FIELD: {"regions": asdict(config.regions)}} if isinstance(config.regions, RegionReplay) else {}
    for name, fields in ((PROCESSOR_FILE, processor), (CONFIG_FILE, {**config.network, **own})):
        write_whole(folder / name, (json.dumps(fields, indent=2) + "\n").encode())


def network_fields(content: dict[str, Any]) -> dict[str, Any]:
    """Of a config.json what is transformers'."""
    return {field: value for field, value in content.items() if field != OWN_FIELD}


def _own(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Of a config.json what this package has added: how regions are shown."""
    own = content.get(OWN_FIELD, {})
    if not isinstance(own, dict) or set(own) - {"regions"}:
        raise CheckpointError(f"{path}: {OWN_FIELD} is {own!r}, expected {{\"regions\": {{…}}}}")
    return own


def _check_version(path: Path, content: dict[str, Any]) -> None:
    """Refuse a configuration of a newer transformers that has fields which this one does not know."""
    written = content.get("transformers_version")
    newer = _numbers(str(written or "")) > _numbers(transformers.__version__)
    known = AutoConfig.for_model(MODEL_TYPE)
    unknown = _unknown(content, known) + [f"{part}.{field}" for part in _PARTS
                                          for field in _unknown(content.get(part), getattr(known, part))]
    if newer and unknown:
        raise CheckpointError(f"{path}: written by transformers {written}, with fields that {transformers.__version__} "
                              f"does not know: {', '.join(unknown[:8])}; install that version, or take an older "
                              "folder of the model")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)[:2]]


def _unknown(fields: Any, known: PretrainedConfig) -> list[str]:
    named = fields if isinstance(fields, dict) else {}
    return [field for field in named if not hasattr(known, field) and field not in _ALWAYS_KNOWN]


# Written by transformers' older versions and taken by all.
_ALWAYS_KNOWN = frozenset(("model_type", "rope_theta", "rope_scaling", "torch_dtype", "transformers_version",
                           "eos_token_id", "bos_token_id", "tie_word_embeddings", "_name_or_path"))


def _check_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template that reaches for Python's objects; say so where it is of another form than ours."""
    texts = [str(tokenizer.chat_template or "")]
    for name in _TEMPLATE_FILES:
        if (folder / name).is_file():
            texts.append(read_regular(folder / name).decode(errors="replace"))
    template = "\n".join(texts)
    if found := _INTERNALS.search(template):
        raise CheckpointError(f"{folder}: its chat template reaches for {found[0]}, which would run code; it is never "
                              "run here, and a folder that brings such a one is not to be trusted")
    if template.strip() and not all(mark in template for mark in ("<|im_start|>", *IMAGE_MARKS)):
        _log.warning("%s: its chat template is of another form than Qwen3-VL's, which prompts have here: a model that "
                     "was trained with it may answer worse", folder)


def _budget(folder: Path, vision: dict[str, Any]) -> PixelBudget:
    """Sizes by the image processor's file, else as Qwen3-VL is published; they must be the encoder's."""
    fields: dict[str, Any] = {}
    for name in (PROCESSOR_FILE, "processor_config.json"):
        if (folder / name).is_file():
            fields = read_object(folder / name)
            fields = fields.get("image_processor", fields)
            break
    size = size if isinstance(size := fields.get("size"), dict) else {}
    given = {"patch": vision.get("patch_size"), "merge": vision.get("spatial_merge_size"),
             "frames": vision.get("temporal_patch_size"), "least": fields.get("min_pixels", size.get("shortest_edge")),
             "most": fields.get("max_pixels", size.get("longest_edge")), "mean": fields.get("image_mean"),
             "std": fields.get("image_std")}
    try:
        budget = PixelBudget(**{name: value for name, value in given.items() if value is not None})
    except ConfigError as error:
        raise CheckpointError(f"{folder}: the image processor's {error}") from error
    for field, value in (("patch_size", budget.patch), ("merge_size", budget.merge),
                         ("temporal_patch_size", budget.frames)):
        if fields.get(field, value) != value:
            raise CheckpointError(f"{folder}: the image processor's {field} is {fields[field]}, expected the encoder's "
                                  f"{value}")
    return budget
