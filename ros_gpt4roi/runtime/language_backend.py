"""Which code runs the language model here: the fastest that gives what the model itself does."""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from .kv_cache import SlotCache
from .language_model import Body, Head, LlamaBody, TorchHead, TransformersBody
from .quantised_linear import Int8DynamicLinear

logger = logging.getLogger(__name__)
_AGREE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # relative, for a model to count as a Llama
_AGREE_INT8 = 0.25  # two ways to round to int8 differ by a tenth
_SMALL_BODY = 1 << 28  # bytes of weights; of more a step is arithmetic and memory, and a second copy would be large
SMALL_HEAD = 1 << 25  # bytes of weights; of more PyTorch is as fast, and a second copy would be large


@torch.inference_mode()
def choose_body(body: nn.Module, make_cache: Callable[[int], SlotCache], embeddings: torch.Tensor, context: int,
                onnxruntime: bool) -> Body:
    """Choose the fastest that gives what the model itself does, tried out on a few tokens.

    OnnxBody for a small model on a CPU, if `onnxruntime` may be used; LlamaBody; else the model itself.

    Args:
        body: The language model without its output layer.
        make_cache: Makes a cache of so many slots.
        embeddings: [tokens, width] of the tokens, where the body is. Of another size than the model's own they may be
            amplified until rounding to int8 decides what comes out.
        context: Most positions.
        onnxruntime: Whether ONNX Runtime may be used.
    """
    own: Body = TransformersBody(body)
    dtype, device = embeddings.dtype, embeddings.device
    expected = _tried_out(own, make_cache, embeddings)

    def error(found: Body) -> float:
        return float((_tried_out(found, make_cache, embeddings) - expected).norm() / expected.norm())

    try:
        lean = LlamaBody(body)
    except AttributeError as problem:
        logger.info("the language model runs through transformers: %s", problem)
        return own
    if (off := error(lean)) > _AGREE[dtype]:
        logger.info("the language model runs through transformers: it is no plain Llama (%.1e off)", off)
        return own
    if not onnxruntime or device.type != "cpu" or weight_bytes(cast(nn.Module, body.layers)) > _SMALL_BODY:
        return lean
    try:
        from .onnx_language_model import OnnxBody  # neither onnx nor onnxruntime is needed where this is not used

        few = OnnxBody(body, context, lean)
        if (off := error(few)) > (_AGREE[dtype] if few.exact else _AGREE_INT8):
            raise ValueError(f"{off:.1e} off")
    except (ImportError, AttributeError, ValueError) as problem:
        logger.info("the language model's steps run in PyTorch, not in ONNX Runtime: %s", problem)
        return lean
    return few


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the weights that all its layers have."""
    return sum(map(_own_bytes, module.modules()))


def _own_bytes(module: nn.Module) -> int:
    """Of a layer itself; oneDNN's int8 layers hold theirs in a layout of their own."""
    if isinstance(module, Int8DynamicLinear):
        return module.weight_bytes
    weight = getattr(module, "weight", None)
    return 0 if weight is None else weight.nbytes


def _tried_out(run: Body, make_cache: Callable[[int], SlotCache], embeddings: torch.Tensor) -> torch.Tensor:
    """What it makes of the tokens, the first slot hidden from all."""
    count, device = len(embeddings), embeddings.device
    positions = torch.arange(count, device=device)
    sees = torch.ones(count, count + 1, dtype=torch.bool, device=device).tril(1)
    sees[:, 0] = False
    cache = make_cache(count)
    slots = torch.from_numpy(cache.take(count)).to(device)
    cache.map_slots(slots, count + 1)
    return run(embeddings, positions, cache, sees).float()


def choose_head(layer: nn.Module, never: torch.Tensor, dtype: torch.dtype, onnxruntime: bool) -> Head:
    """OnnxHead for a small layer on a CPU and hidden states of float32, if `onnxruntime` may be used; else TorchHead.

    Args:
        layer: The output layer.
        never: Ids [k] of tokens that are not to be chosen, on the layer's device.
        dtype: Of the hidden states.
        onnxruntime: Whether ONNX Runtime may be used.
    """
    own = TorchHead(layer, never)
    if not onnxruntime or never.device.type != "cpu" or dtype != torch.float32 or weight_bytes(layer) > SMALL_HEAD:
        return own
    try:
        from .onnx_language_model import OnnxHead  # neither onnx nor onnxruntime is needed where this is not used

        return OnnxHead(layer, never, own)
    except (ImportError, ValueError) as problem:
        logger.info("the output layer runs in PyTorch, not in ONNX Runtime: %s", problem)
        return own
