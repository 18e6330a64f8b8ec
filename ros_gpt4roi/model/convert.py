"""Weights of others → our checkpoint.

They are the published GPT4RoI (whole, or as a delta to a Llama), or a pretrained encoder and a pretrained language
model that are to be trained into one.

Published layout: `model.spi_module.*`, `model.mm_projector.*` and the language model's own keys; the encoder is not
part of it. The conversion streams tensor by tensor into numbered shards, keeps a record of the finished ones and takes
up where an interrupted one stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from transformers import PreTrainedTokenizerBase

from .. import regular_file
from .architecture import without_code
from .checkpoint import CONFIG_FILE, VERSION, CheckpointError, build_model, load_tokenizer, tied_keys, write_config
from .config import ConfigError, LanguageConfig, ModelConfig, preset
from .convert_parts import change_keys, changed_part, projector_parts, random_parts, tensor_part, vision_parts
from .delta import check_delta
from .gpt4roi import GPT4RoI
from .prompt import SPECIAL_TOKENS, PromptError
from .shard_writer import Part, write_parts
from .weights_io import WeightSource

_PADDING = "[PAD]"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

# Our names of the region extractor's parts and the published ones.
_REGION_PARTS = (("pyramid.lateral.", "mlvl_fuse.input_conv."), ("pyramid.rounds.", "mlvl_fuse.fuse_convs."),
                 ("convs.", "roi_align.pconvs."), ("position.layers.", "roi_align.pos_embedd."),
                 ("flatten.", "roi_align.flatten_linear."), ("project.", "roi_align.updims."))
# Buffers that old versions of transformers stored.
_SURPLUS = re.compile(r"rotary_emb\.inv_freq$|position_ids$")
_LANGUAGE_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                    "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act",
                    "tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters")


def published_key(key: str) -> str:
    """The name of one of our weights in the published layout; those of the encoder begin with `vision.`."""
    if key.startswith("language."):
        return key.removeprefix("language.")
    if key.startswith("projector."):
        return "model.mm_projector." + key.removeprefix("projector.")
    if key.startswith("regions."):
        rest = key.removeprefix("regions.")
        for ours, theirs in _REGION_PARTS:
            if rest.startswith(ours):
                return "model.spi_module." + theirs + rest.removeprefix(ours).replace(".norm.", ".gn.")
    return key


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Adds the special tokens that the tokenizer lacks, in the published order; returns them."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    tokenizer.add_tokens(missing, special_tokens=True)
    return missing


def _complete_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int | None, problems: list[str]) -> None:
    """Adds what training added; every special token must meet the embedding it was trained with."""
    before = len(tokenizer)
    missing = sum(token not in tokenizer.get_vocab() for token in SPECIAL_TOKENS)
    # The published training gives a Llama without a padding token one, before all others.
    if missing and rows == before + missing + 1 and tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": _PADDING})
    added = add_special_tokens(tokenizer)
    if rows is not None and (rows < len(tokenizer) or (added and rows != len(tokenizer))):
        problems.append(f"model.embed_tokens.weight: {rows} rows, expected {len(tokenizer)} "
                        f"for the tokenizer's {before} tokens and {added}")


class Plan(NamedTuple):
    """A conversion worked out but not begun.

    Attributes:
        parts: The tensors to write.
        sources: The files and folders they are read from.
        config: Of the checkpoint.
        tokenizer: Of the checkpoint.
        untrained: Parts of the model that are random.
    """

    parts: list[Part]
    sources: list[WeightSource]
    config: ModelConfig
    tokenizer: PreTrainedTokenizerBase
    untrained: tuple[str, ...] = ()

    def run(self, output: str | Path, *, shard_bytes: int = 1 << 31, progress: bool = True) -> None:
        """Writes the checkpoint folder.

        Args:
            output: The folder, made where it is missing.
            shard_bytes: Most bytes of weights in one file.
            progress: Show a bar on stderr.

        Raises:
            CheckpointError: Also where the folder holds other things than a checkpoint of ours, which would be lost.
        """
        output = Path(output)
        present, read = read_json(output / CONFIG_FILE), {source.folder.resolve() for source in self.sources}
        if (present and present.get("format") != "ros_gpt4roi") or output.resolve() in read:
            raise CheckpointError(f"{output}: holds other weights, which would be lost; expected a folder of its own")
        salt = json.dumps(self.config.to_dict())
        try:
            # Without its config a folder is no checkpoint: nobody loads a half-written one.
            (output / CONFIG_FILE).unlink(missing_ok=True)
            write_parts(self.parts, self.sources, output, {"format": "ros_gpt4roi", "version": str(VERSION)},
                        shard_bytes, progress, salt)
            self.tokenizer.save_pretrained(output)
            write_config(self.config, output, self.untrained)
        except OSError as error:
            raise CheckpointError(f"{output}: cannot be written ({error.strerror or error}); run it again, "
                                  "it goes on behind the last finished shard") from error


def plan_published(source: str | Path, vision: str | Path, *, base: str | Path | None = None,
                   tokenizer: str | Path | None = None, config: ModelConfig | None = None,
                   dtype: str = "float16") -> Plan:
    """Plans the conversion of a checkpoint of the published layout; reads headers and configs only.

    Args:
        source: Folder of the GPT4RoI weights, or of a delta.
        base: Folder of the Llama that the delta is added to; None for whole weights.
        vision: Folder of the encoder (CLIP ViT-L/14 for the published model).
        tokenizer: Folder of the tokenizer, by default the source's own.
        config: Describes what the folders' own files do not: region extractor, prompts, the rest of the preprocessing
            (default: the preset gpt4roi-7b).
        dtype: Number format to write.

    Raises:
        CheckpointError: Keys and shapes that do not fit are listed all at once, with both shapes.
    """
    with _checkpoint_errors(source, vision):
        weights, encoder = WeightSource(source), WeightSource(vision)
        if not any(key.startswith("model.spi_module.") for key in weights.entries):
            raise CheckpointError(f"{weights.folder}: no region extractor (model.spi_module.*), expected a GPT4RoI; "
                                  "of other pretrained parts `assemble` makes a checkpoint to train from")
        llama = None if base is None else WeightSource(base)
        words = load_tokenizer(source if tokenizer is None else tokenizer)
        check_delta(weights, llama, words, _described)
        problems: list[str] = []
        embedding = weights.entries.get("model.embed_tokens.weight")
        rows = None if embedding is None else embedding.shape[0]
        _complete_vocabulary(words, rows, problems)
        config = preset("gpt4roi-7b") if config is None else config
        described = {key: value for key, value in _described(Path(source)).items()
                     if key in _LANGUAGE_FIELDS and value is not None}
        fields = {**config.language.model, **described, "vocab_size": max(rows or 0, len(words))}
        config = _with_encoder(dataclasses.replace(config, language=LanguageConfig(fields)), Path(vision))
        model = _empty_model(config, words)
        expected = {key: value for key, value in model.state_dict().items() if not key.startswith("vision.")}
        parts = _parts(expected, model, weights, DTYPES[dtype], problems, base=llama)
        parts += vision_parts(model.state_dict(), encoder, DTYPES[dtype], problems)
        used = set(map(published_key, expected))
        read = [(weights, ""), *([(llama, " in the base model")] if llama else [])]
        problems += [f"{key}: {list(entry.shape)}{where}, not part of this model"
                     for files, where in read for key, entry in files.entries.items()
                     if key not in used and not _SURPLUS.search(key)]
        _raise(problems, weights)
        return Plan(parts, [s for s in (weights, encoder, llama) if s], config, words)


def plan_assembly(language: str | Path, vision: str | Path, config: ModelConfig, *,
                  projector: str | Path | None = None, seed: int = 0, dtype: str = "float32") -> Plan:
    """Plans a checkpoint to train from: pretrained parts, and a random region extractor.

    Args:
        language: Folder of the language model, as transformers saves it; its config.json takes the place of config's.
            New tokens get the mean of the known ones' embeddings.
        vision: Folder of the encoder, likewise, also for the image size, mean and standard deviation.
        config: Describes all else.
        projector: File or folder with LLaVA's projector, the adapter of its first stage (mm_projector.bin) or a whole
            LLaVA; None: a random projector.
        seed: Of the random parts.
        dtype: Number format to write.

    Raises:
        CheckpointError: see plan_published.
    """
    with _checkpoint_errors(language, vision):
        weights, encoder = WeightSource(language), WeightSource(vision)
        words, known = _with_special_tokens(language)
        fields = _described(Path(language))
        fields["vocab_size"] = max(fields.get("vocab_size", 0), len(words))
        config = _with_encoder(dataclasses.replace(config, language=LanguageConfig(fields)), Path(vision))
        model = _empty_model(config, words)
        expected = model.state_dict()
        problems: list[str] = []
        fresh = random_parts(model, seed, DTYPES[dtype])
        adapter = None if projector is None else WeightSource(projector)
        parts = [] if adapter is None else projector_parts(expected, adapter, DTYPES[dtype], problems)
        parts += [part for part in fresh if adapter is None or not part.key.startswith("projector.")]
        of_language = {key: value for key, value in expected.items() if key.startswith("language.")}
        parts += _parts(of_language, model, weights, DTYPES[dtype], problems, known=known)
        parts += vision_parts(expected, encoder, DTYPES[dtype], problems)
        _raise(problems, weights)
        untrained = ("regions",) if adapter else ("projector", "regions")
        return Plan(parts, [s for s in (weights, encoder, adapter) if s], config, words, untrained)


def plan_completion(source: str | Path, language: str | Path, config: ModelConfig, dtype: str = "float16") -> Plan:
    """Plans a whole checkpoint of a model without its language model and of that (see `without_base.py`).

    Args:
        source: File of the model's weights.
        language: Folder of the language model, as transformers saves it; as of plan_assembly.
        config: Of the model.
        dtype: Number format to write.

    Raises:
        CheckpointError: see plan_published.
    """
    with _checkpoint_errors(source, language):
        weights, base = WeightSource(source), WeightSource(language)
        words, known = _with_special_tokens(language)
        model = _empty_model(config, words)
        expected = model.state_dict()
        of_language = {key: value for key, value in expected.items() if key.startswith("language.")}
        problems: list[str] = []
        parts = _parts(of_language, model, base, DTYPES[dtype], problems, known=known)
        parts = [changed_part(part, weights, problems) for part in parts]
        for key, value in expected.items():
            if key in weights.entries:
                parts += tensor_part(key, value, weights, key, DTYPES[dtype], problems)
            elif key not in of_language:
                problems.append(f"{key}: missing, expected {list(value.shape)}")
        used = {*(expected.keys() - of_language.keys()), *(name for key in of_language for name in change_keys(key))}
        problems += [f"{key}: not part of this model" for key in weights.entries if key not in used]
        _raise(problems, weights)
        return Plan(parts, [weights, base], config, words)


def _with_special_tokens(language: str | Path) -> tuple[PreTrainedTokenizerBase, int]:
    """A language model's tokenizer with the special tokens added, and how many tokens it had before."""
    words = load_tokenizer(language)
    known = len(words)
    if words.pad_token is None:
        words.add_special_tokens({"pad_token": _PADDING})
    add_special_tokens(words)
    return words, known


def _parts(expected: dict[str, torch.Tensor], model: GPT4RoI, source: WeightSource, dtype: torch.dtype,
           problems: list[str], base: WeightSource | None = None, known: int | None = None) -> list[Part]:
    """The parts for tensors of the published layout; see `tensor_part`."""
    parts, optional = [], tied_keys(model)
    for key, value in expected.items():
        theirs = published_key(key)
        if theirs in source.entries:
            parts += tensor_part(key, value, source, theirs, dtype, problems, base, known)
        elif key not in optional:
            problems.append(f"{theirs}: missing, expected {list(value.shape)}")
    return parts


@contextlib.contextmanager
def _checkpoint_errors(*sources: str | Path) -> Iterator[None]:
    where = " and ".join(map(str, sources))
    try:
        yield
    except CheckpointError:
        raise
    except (ConfigError, PromptError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # transformers looks at few of the numbers before it uses them.
        raise CheckpointError(f"{where}: describe a network that cannot be made: {type(error).__name__}: {error}") \
            from error


def _empty_model(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> GPT4RoI:
    with init_empty_weights(include_buffers=False):
        return build_model(config, tokenizer).model


def _raise(problems: list[str], source: WeightSource) -> None:
    if problems:
        raise CheckpointError(f"{source.folder}: {len(problems)} weights do not fit:\n  " + "\n  ".join(problems))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no file. Raises CheckpointError."""
    try:
        fields = regular_file.read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: expected an object")
    return fields


def _with_encoder(config: ModelConfig, folder: Path) -> ModelConfig:
    """The config with the encoder and what it was trained to see, as far as its folder describes them.

    A contrastive model's config holds the encoder's under vision_config. The image size is the encoder's, except where
    `vision.interpolate_positions` frees it.
    """
    fields, seen = _described(folder), read_json(folder / "preprocessor_config.json")
    fields = fields.get("vision_config", fields)
    preprocess: dict[str, Any] = {
        name: tuple(seen["image_" + name]) for name in ("mean", "std") if seen.get("image_" + name)}
    if isinstance(fields.get("image_size"), int) and not config.vision.interpolate_positions:
        preprocess["image_size"] = fields["image_size"]
    vision = dataclasses.replace(config.vision, encoder=fields) if fields else config.vision
    return dataclasses.replace(config, vision=vision, preprocess=dataclasses.replace(config.preprocess, **preprocess))


def _described(folder: Path) -> dict[str, Any]:
    """A folder's config.json without what speaks of its file and not of the model."""
    drop = ("architectures", "transformers_version", "torch_dtype", "dtype")
    return {key: value for key, value in without_code(read_json(folder / CONFIG_FILE)).items() if key not in drop}
