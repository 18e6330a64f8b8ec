"""A Qwen3-VL as transformers saves it → the same, which sees vectors of regions beside their words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import init_empty_weights
from tokenizers import AddedToken

from ..regular_file import write_whole
from .checkpoint import CONFIG_FILE, CheckpointError, load_tokenizer
from .checkpoint_files import INDEX_FILE, WeightsFile, read_content
from .convert_parts import tensor_part
from .qwen3_vl import Qwen3VL
from .qwen3_vl_folder import OWN_FIELD, check_content, read_qwen3_vl, write_qwen3_vl_config
from .region_replay import RegionReplay
from .region_words import REGION_PAD
from .shard_writer import Part, write_parts
from .weights_io import WeightSource

# The head may be tied to the embedding, and then lies in no file.
_EMBEDDING, _HEAD, _MARK = "model.language_model.embed_tokens.weight", "lm_head.weight", "regions.mark"
# What may lie beside the weights and says nothing of them.
_KEPT = ("generation_config.json", "LICENSE*", "NOTICE*")


def add_replay(source: str | Path, output: str | Path, regions: RegionReplay, shard_bytes: int = 1 << 31,
               progress: bool = True) -> None:
    """Write a folder with the same weights, a token for what is replayed, and the vector that marks it.

    Args:
        source: Folder of the Qwen3-VL.
        output: The folder, made where it is missing.
        regions: How many vectors a region has.
        shard_bytes: Most bytes of weights in one file.
        progress: Show a bar on stderr.

    Raises:
        CheckpointError: The source is no Qwen3-VL, its weights do not fit its config, or the output holds others.
    """
    source, output = Path(source), Path(output)
    content = read_content(source)
    check_content(source / CONFIG_FILE, content)
    if OWN_FIELD in content:
        raise CheckpointError(f"{source}: its regions are vectors already, expected the folder as transformers saves "
                              "it")
    if output.resolve() == source.resolve() or ((output / CONFIG_FILE).exists()
                                                and OWN_FIELD not in read_content(output)):
        raise CheckpointError(f"{output}: holds other weights, which would be lost; expected a folder of its own")
    tokenizer, weights = load_tokenizer(source), WeightSource(source)
    config = read_qwen3_vl(source, content, tokenizer)
    tokenizer.add_tokens([AddedToken(REGION_PAD, special=True, normalized=False)], special_tokens=True)
    # Published models have embeddings to spare; where there is none, the new token gets the mean of the others'.
    known = weights.entries[_EMBEDDING].shape[0] if _EMBEDDING in weights.entries else 0
    text = {**config.network["text_config"], "vocab_size": max(known, len(tokenizer))}
    config = replace(config, regions=regions, network={**config.network, "text_config": text})
    with init_empty_weights(include_buffers=False):
        expected = {Qwen3VL.stored_name(key): value for key, value in Qwen3VL(config).state_dict().items()}
    mark = expected.pop(_MARK).shape
    problems, parts = list[str](), list[Part]()
    for name, entry in weights.entries.items():
        if name not in expected:
            problems.append(f"{name}: {list(entry.shape)}, not part of this model")
            continue
        parts += tensor_part(name, expected[name], weights, name, entry.dtype, problems, known=known)
    problems += [f"{name}: missing, expected {list(value.shape)}" for name, value in expected.items()
                 if name not in weights.entries and name != _HEAD]
    if problems:
        raise CheckpointError(f"{source}: {len(problems)} weights do not fit:\n  " + "\n  ".join(problems))
    parts.append(Part(_MARK, tuple(mark), torch.float32, "", lambda: iter([torch.zeros(mark)])))
    try:
        (output / CONFIG_FILE).unlink(missing_ok=True)
        write_parts(parts, [weights], output, {"format": "pt"}, shard_bytes, progress, json.dumps(text))
        files = {path.name: WeightsFile.open(path).tensors for path in sorted(output.glob("model-*.safetensors"))}
        index = {"metadata": {}, "weight_map": {name: file for file, tensors in files.items() for name in tensors}}
        write_whole(output / INDEX_FILE, (json.dumps(index, indent=2) + "\n").encode())
        tokenizer.save_pretrained(output)
        for path in (path for pattern in _KEPT for path in source.glob(pattern)):
            shutil.copyfile(path, output / path.name)
        write_qwen3_vl_config(config, output)
    except OSError as error:
        raise CheckpointError(f"{output}: cannot be written ({error.strerror or error}); run it again, it goes on "
                              "behind the last finished shard") from error
