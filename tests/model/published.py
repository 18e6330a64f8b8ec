"""Checkpoints of the published GPT4RoI layout, generated: its keys and shapes, written down apart from our own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from ros_gpt4roi.model.checkpoint import LoadedModel, load_checkpoint
from ros_gpt4roi.model.config import ModelConfig
from ros_gpt4roi.model.convert import plan_published

Shapes = dict[str, tuple[int, ...]]


def region_shapes(encoder: int, channels: int, hidden: int, position: int, width: int, roi: int, rounds: int) -> Shapes:
    """Keys of the region module with 4 levels."""
    shapes: Shapes = {}
    for i in range(4):
        shapes[f"mlvl_fuse.input_conv.{i}.weight"] = (channels, encoder + 2, 1, 1)
        shapes[f"mlvl_fuse.input_conv.{i}.bias"] = (channels,)
        shapes[f"roi_align.pconvs.{i}.weight"] = (channels, channels, 3, 3)
        shapes[f"roi_align.pconvs.{i}.bias"] = (channels,)
    for i in range(rounds):
        shapes[f"mlvl_fuse.fuse_convs.{i}.conv.weight"] = (channels, channels, 3, 3)
        shapes |= {f"mlvl_fuse.fuse_convs.{i}.gn.{name}": (channels,) for name in ("weight", "bias")}
    for i, (rows, columns) in {0: (position, 4), 3: (hidden, position)}.items():
        shapes[f"roi_align.pos_embedd.{i}.weight"] = (rows, columns)
        shapes[f"roi_align.pos_embedd.{i}.bias"] = (rows,)
        shapes |= {f"roi_align.pos_embedd.{i + 2}.{name}": (rows,) for name in ("weight", "bias")}
    shapes |= {"roi_align.flatten_linear.weight": (hidden, channels * roi * roi),
               "roi_align.flatten_linear.bias": (hidden,),
               "roi_align.updims.weight": (width, hidden), "roi_align.updims.bias": (width,)}
    return {"model.spi_module." + key: shape for key, shape in shapes.items()}


def llama_shapes(vocabulary: int, width: int, inner: int, layers: int, key_value: int | None = None) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    for i in range(layers):
        name = f"model.layers.{i}."
        shapes |= {f"{name}self_attn.{p}_proj.weight": (width, width) for p in "qo"}
        shapes |= {f"{name}self_attn.{p}_proj.weight": (key_value or width, width) for p in "kv"}
        shapes |= {f"{name}mlp.{p}_proj.weight": (inner, width) for p in ("gate", "up")}
        shapes[f"{name}mlp.down_proj.weight"] = (width, inner)
        shapes |= {f"{name}{p}_layernorm.weight": (width,) for p in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def clip_shapes(width: int, inner: int, layers: int, patch: int, image: int) -> Shapes:
    """The image half of a CLIP as its own files name it."""
    shapes: Shapes = {"embeddings.class_embedding": (width,),
                      "embeddings.patch_embedding.weight": (width, 3, patch, patch),
                      "embeddings.position_embedding.weight": ((image // patch) ** 2 + 1, width)}
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.{p}": (width,) for p in ("weight", "bias")}
    for i in range(layers):
        name = f"encoder.layers.{i}."
        for p in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"):
            shapes |= {f"{name}{p}.weight": (width, width), f"{name}{p}.bias": (width,)}
        shapes |= {f"{name}mlp.fc1.weight": (inner, width), f"{name}mlp.fc1.bias": (inner,),
                   f"{name}mlp.fc2.weight": (width, inner), f"{name}mlp.fc2.bias": (width,)}
        shapes |= {f"{name}layer_norm{n}.{p}": (width,) for n in (1, 2) for p in ("weight", "bias")}
    return {"vision_model." + key: shape for key, shape in shapes.items()}


def tiny_shapes(config: ModelConfig, vocabulary: int) -> tuple[Shapes, Shapes]:
    """Shapes of the whole published checkpoint and of the encoder's, for a config of model_fixtures."""
    words, clip, region = config.language.model, config.vision.encoder, config.regions
    width = words["hidden_size"]
    published = llama_shapes(vocabulary, width, words["intermediate_size"], words["num_hidden_layers"], width // 2)
    published |= {"model.mm_projector.weight": (width, clip["hidden_size"]), "model.mm_projector.bias": (width,)}
    published |= region_shapes(clip["hidden_size"], region.channels, region.hidden, region.position_hidden, width,
                               region.roi_size, region.fusion_rounds)
    encoder = clip_shapes(clip["hidden_size"], clip["intermediate_size"], clip["num_hidden_layers"], clip["patch_size"],
                          clip["image_size"])
    return published, encoder


def draw(shapes: Shapes, seed: int, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """Random weights; the Llama's normalisations are near 1, as in every whole model."""
    generator = torch.Generator().manual_seed(seed)
    return {key: (torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) + is_norm(key)).to(dtype)
            for key, shape in shapes.items()}


def is_norm(key: str) -> bool:
    """Whether a key is of a normalisation of the Llama."""
    return key == "model.norm.weight" or (key.startswith("model.layers.") and key.endswith("layernorm.weight"))


def as_delta(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with normalisations near 0, as in every delta."""
    return {key: (value - 1) / 100 if is_norm(key) else value for key, value in weights.items()}


def shards(weights: dict[str, torch.Tensor], count: int) -> list[dict[str, torch.Tensor]]:
    keys = list(weights)
    return [{key: weights[key] for key in keys[i::count]} for i in range(count)]


def write_folder(folder: Path, weights: dict[str, torch.Tensor], kind: str = "safetensors", count: int = 2,
                 config: dict | None = None, tokenizer: PreTrainedTokenizerBase | None = None) -> Path:
    """kind: "safetensors", "bin", or "old bin" (the format before PyTorch 1.6)."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, shard in enumerate(shards(weights, count), 1):
        if kind == "safetensors":
            save_file({k: v.clone() for k, v in shard.items()}, folder / f"model-{i:05}-of-{count:05}.safetensors")
        else:
            torch.save(shard, folder / f"pytorch_model-{i:05}-of-{count:05}.bin",
                       _use_new_zipfile_serialization=kind == "bin")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def run_published(folder: Path, config: ModelConfig, **options) -> LoadedModel:
    """The model that conversion makes of folder/published and folder/clip."""
    plan = plan_published(folder / "published", folder / "clip", config=config, **options)
    plan.run(folder / "ours", progress=False)
    return load_checkpoint(folder / "ours")
