"""The language model's body over the slot cache: transformers' own, or the same arithmetic in fewer operations."""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .kv_cache import SlotCache
from .quantised_linear import Int8DynamicLinear

logger = logging.getLogger(__name__)
_AGREE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # relative, for a model to count as a Llama
_AGREE_INT8 = 0.25  # on random numbers two ways to round to int8 differ by a tenth
_SMALL = 1 << 26  # weights; of more a step is arithmetic and memory, and a second copy would be large


class Body(Protocol):
    """What turns embeddings [T, D] at positions [T], over a cache that is aimed at the tokens' slots, into hidden states [T, D].

    sees: bool [T, extent]. reads_all: whether a call reads all slots there is memory for, and not only up to the extent.
    """

    reads_all: bool

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor) -> torch.Tensor: ...


class TransformersBody:
    """Any body of transformers."""

    reads_all = False

    def __init__(self, body: nn.Module):
        self._body = body

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor) -> torch.Tensor:
        return self._body(inputs_embeds=embeddings.unsqueeze(0), attention_mask=sees[None, None],
                          position_ids=positions.unsqueeze(0), past_key_values=cache,
                          use_cache=True).last_hidden_state[0]


class LlamaBody:
    """A Llama's. On a small model most of a step is not arithmetic but calls, and this has a third of them.

    The linear layers are called as modules, so that they may be quantised ones. Raises AttributeError for a body that
    is not built as transformers builds a Llama.
    """

    reads_all = False

    def __init__(self, body: nn.Module):
        self._rotary, self._norm = body.rotary_emb, body.norm
        self._layers = [(layer.input_layernorm, layer.self_attn, layer.self_attn.q_proj, layer.self_attn.k_proj,
                         layer.self_attn.v_proj, layer.self_attn.o_proj, layer.post_attention_layernorm,
                         layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj, layer.mlp.act_fn)
                        for layer in body.layers]
        first = body.layers[0].self_attn
        self._size, self._scale, self._epsilon = first.head_dim, first.scaling, self._norm.variance_epsilon

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor) -> torch.Tensor:
        x, half = embeddings, self._size // 2
        cosine, sine = (part.transpose(0, 1) for part in self._rotary(x, positions.unsqueeze(0)))
        mask = torch.zeros(sees.shape, dtype=x.dtype, device=x.device).masked_fill_(~sees, float("-inf"))[None, None]
        for number, (norm, _, to_q, to_k, to_v, to_out, norm_2, gate, up, down, activate) in enumerate(self._layers):
            h = self._normalise(x, norm)
            q, k, v = (project(h).unflatten(-1, (-1, self._size)) for project in (to_q, to_k, to_v))
            heads, both = q.shape[1], torch.cat([q, k], 1)
            both = both * cosine + torch.cat([-both[..., half:], both[..., :half]], -1) * sine
            q, k = both[:, :heads].transpose(0, 1), both[:, heads:].transpose(0, 1)
            keys, values = cache.update(k[None], v.transpose(0, 1)[None], number)
            h = F.scaled_dot_product_attention(q[None], keys, values, mask, scale=self._scale,
                                               enable_gqa=keys.shape[1] != heads)
            x = x + to_out(h[0].transpose(0, 1).flatten(1))
            h = self._normalise(x, norm_2)
            x = x + down(activate(gate(h)) * up(h))
        return self._normalise(x, self._norm)

    def _normalise(self, x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, self._epsilon)


@torch.inference_mode()
def fast_body(body: nn.Module, make_cache: Callable[[int], SlotCache], width: int, dtype: torch.dtype,
              device: torch.device, context: int, onnxruntime: bool) -> Body:
    """The fastest that gives what the model itself does, tried out on random numbers: OnnxBody for a small model on a CPU,
    if `onnxruntime` may be used; LlamaBody; else the model itself.

    make_cache: a cache of so many slots. context: most positions.
    """
    own: Body = TransformersBody(body)
    expected = _tried_out(own, make_cache, width, dtype, device)

    def error(found: Body) -> float:
        return float((_tried_out(found, make_cache, width, dtype, device) - expected).norm() / expected.norm())

    try:
        lean = LlamaBody(body)
    except AttributeError as problem:
        logger.info("the language model runs through transformers: %s", problem)
        return own
    if (off := error(lean)) > _AGREE[dtype]:
        logger.info("the language model runs through transformers: it is no plain Llama (%.1e off)", off)
        return own
    if not onnxruntime or device.type != "cpu" or weights_of(body) > _SMALL:
        return lean
    try:
        from .onnx_body import OnnxBody  # neither onnx nor onnxruntime is needed where this is not used

        few = OnnxBody(body, context, lean)
        if (off := error(few)) > (_AGREE[dtype] if few.exact else _AGREE_INT8):
            raise ValueError(f"{off:.1e} off")
    except (ImportError, AttributeError, ValueError) as problem:
        logger.info("the language model's steps run in PyTorch, not in ONNX Runtime: %s", problem)
        return lean
    return few


def weights_of(module: nn.Module) -> int:
    """How many weights all its layers have."""
    return sum(map(_own_weights, module.modules()))


def _own_weights(module: nn.Module) -> int:
    """Of a layer itself; oneDNN's int8 layers hold theirs in a layout of their own, a byte each."""
    if isinstance(module, Int8DynamicLinear):
        return module.weight_bytes
    weight = getattr(module, "weight", None)
    return 0 if weight is None else weight.numel()


def _tried_out(run: Body, make_cache: Callable[[int], SlotCache], width: int, dtype: torch.dtype,
               device: torch.device) -> torch.Tensor:
    """What it makes of random numbers of six tokens, the first slot hidden from all."""
    count = 6
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(count, width, generator=generator).to(device, dtype)
    positions = torch.arange(count, device=device)
    sees = torch.ones(count, count + 1, dtype=torch.bool, device=device).tril(1)
    sees[:, 0] = False
    cache = make_cache(count)
    slots = torch.from_numpy(cache.take(count)).to(device)
    cache.aim(slots, count + 1)
    return run(numbers, positions, cache, sees).float()
