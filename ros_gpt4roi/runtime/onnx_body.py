"""A small Llama's body over the slot cache, run by ONNX Runtime: on a CPU a third of the time that calls of PyTorch take."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, TensorProto
from torch import nn

from .language_model import Body
from .kv_cache import SlotCache
from .onnx_graph import CONTRIB, FEW, GraphWriter, Steps, bind, value

# Rotary tables of other kinds change with the length of the text.
_STATIC_ROTARY = ("default", "linear", "llama3")


class _Shape(NamedTuple):
    """Inputs and outputs for one number of tokens, always at the same addresses, bound to a session."""

    embeddings: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    parts: torch.Tensor  # how many slots and how many tokens the mask is about
    hidden: torch.Tensor
    new: torch.Tensor  # keys and values of the tokens, as the cache holds them
    binding: onnxruntime.IOBinding


class OnnxBody:
    """Steps of few tokens run here, all else in `otherwise`. What is returned holds until the next call.

    In int8 of either kind activations become int8 too, one scale for every 256 of them. Weights are held a second time.
    context: most positions. Raises AttributeError or ValueError for a body that is not a Llama's in fp32, int8 or
    int8-dynamic on the CPU.
    """

    reads_all = True  # a product's operands lie close together

    def __init__(self, body: nn.Module, context: int, otherwise: Body):
        if body.rotary_emb.rope_type not in _STATIC_ROTARY:
            raise ValueError(f"rotary positions of type {body.rotary_emb.rope_type!r}, expected one of {_STATIC_ROTARY}")
        writer = _BodyWriter(body, context)
        self._steps, self._otherwise = Steps[_Shape](writer.body(), torch.get_num_threads), otherwise
        self._width, self._groups = body.config.hidden_size, writer.groups
        #: Whether it computes with float weights.
        self.exact = writer.exact
        self._over = torch.empty(0)  # the cache's memory that the shapes are bound to

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor) -> torch.Tensor:
        """As `language_model.Body`."""
        count = len(embeddings)
        if count > FEW:
            return self._otherwise(embeddings, positions, cache, sees)
        if self._over is not cache.memory:
            self._over = cache.memory
            self._steps.forget()
        shape, slots, seen = self._steps.shape(count, self._prepare), cache.slots.numpy(), sees.numpy()
        shape.embeddings.copy_(embeddings)
        shape.positions.copy_(positions)
        # What is fed now is seen beside the cache; its slots still hold what was there before.
        mask, held = shape.mask.numpy(), cache.capacity
        mask.fill(-np.inf)
        mask[:, :, :seen.shape[1]][:, seen] = 0
        mask[:, :, slots] = -np.inf
        mask[:, :, held:][:, seen[:, slots]] = 0
        self._steps.session.run_with_iobinding(shape.binding)
        if not np.isfinite(shape.hidden.numpy()).all():  # which would spoil every row; the other body keeps them apart
            return self._otherwise(embeddings, positions, cache, sees)
        cache.memory.numpy()[:, :, :, slots] = shape.new.numpy()
        return shape.hidden[0]

    def _prepare(self, count: int, session: onnxruntime.InferenceSession) -> _Shape:
        layers, two, heads, slots, size = self._over.shape
        shape = _Shape(torch.empty(1, count, self._width), torch.empty(1, count, dtype=torch.long),
                       torch.empty(self._groups, count, slots + count), torch.tensor([slots, count]),
                       torch.empty(1, count, self._width), torch.empty(layers, two, heads, count, size),
                       session.io_binding())
        for name in ("embeddings", "positions", "parts"):
            bind(shape.binding.bind_input, name, getattr(shape, name))
        bind(shape.binding.bind_input, "mask", shape.mask.flatten(0, 1))
        bind(shape.binding.bind_output, "hidden", shape.hidden)
        for to, prefix, pool in ((shape.binding.bind_input, "", self._over), (shape.binding.bind_output, "new_", shape.new)):
            for layer, pair in enumerate(pool.unsqueeze(2)):
                for part, tensor in zip(("key", "value"), pair):
                    bind(to, f"{prefix}{part}_{layer}", tensor)
        return shape


class _BodyWriter(GraphWriter):
    """Writes the graph. The queries of a key head stand one behind the other, as more tokens would: [1, key heads, groups · T,
    size]; the cache is [1, key heads, slots, size].

    Inputs: embeddings [1, T, D], positions [1, T], mask [groups · T, slots + T] of 0 and −inf, parts = [slots, T], and of every
    layer key_i and value_i. Outputs: hidden [1, T, D], and of every layer new_key_i and new_value_i, [1, key heads, T, size].
    """

    def __init__(self, body: nn.Module, context: int):
        if body.norm.weight.dtype != torch.float32:
            raise ValueError(f"weights of {body.norm.weight.dtype}, expected float32 or int8")
        if body.config.hidden_act != "silu":
            raise ValueError(f"activation {body.config.hidden_act!r}, expected 'silu'")
        super().__init__()
        self._body = body
        attention = body.layers[0].self_attn
        self._size, self._scale = attention.head_dim, attention.scaling
        self._epsilon = body.norm.variance_epsilon
        self._key_heads, query_heads = body.config.num_key_value_heads, body.config.num_attention_heads
        #: Queries to a key head.
        self.groups = query_heads // self._key_heads
        place = torch.arange(context).unsqueeze(0)
        tables = body.rotary_emb(body.norm.weight.float(), place)
        # Both halves of a head turn by the same angles.
        self._rotary = [self.constant(table[0, :, :self._size // 2]) for table in tables]
        self._turned = self.constant(torch.tensor([query_heads + self._key_heads, self._key_heads]))
        self._query_and_key = self.constant(torch.tensor([query_heads, self._key_heads]))
        self._apart = self.constant(torch.tensor([1, -1, query_heads + 2 * self._key_heads, self._size]))
        if self.groups > 1:
            self._by_key_head = self.constant(torch.tensor([1, self._key_heads, -1, self._size]))
            self._by_head = self.constant(torch.tensor([1, query_heads, -1, self._size]))
        self._flat = self.constant(torch.tensor([1, -1, query_heads * self._size]))

    def body(self) -> ModelProto:
        """The whole graph."""
        x, added = "embeddings", None
        for number, layer in enumerate(self._body.layers):
            x, h = self._normalise(layer.input_layernorm, x, added)
            x, h = self._normalise(layer.post_attention_layernorm, x, self._attend(layer.self_attn, h, number))
            added = self._feed_forward(layer.mlp, h)
        self._normalise(self._body.norm, x, added, "hidden")
        width, heads = self._body.config.hidden_size, self._key_heads
        inputs = [value("embeddings", [1, "T", width]), value("positions", [1, "T"], TensorProto.INT64),
                  value("mask", ["queries", "all"]), value("parts", [2], TensorProto.INT64)]
        outputs = [value("hidden", [1, "T", width])]
        for number in range(len(self._body.layers)):
            for part in ("key", "value"):
                inputs.append(value(f"{part}_{number}", [1, heads, "slots", self._size]))
                outputs.append(value(f"new_{part}_{number}", [1, heads, "T", self._size]))
        return self.model(inputs, outputs)

    def _attend(self, attention: nn.Module, h: str, number: int) -> str:
        projected = self.linear([attention.q_proj, attention.k_proj, attention.v_proj], h)
        heads = self.node("Transpose", [self.node("Reshape", [projected, self._apart])], perm=[0, 2, 1, 3])
        key, new = f"new_key_{number}", f"new_value_{number}"
        both, _ = self.node("Split", [heads, self._turned], names=[f"turned_{number}", new], axis=1)
        both = self.node("RotaryEmbedding", [both, "positions", *self._rotary], domain=CONTRIB)
        query, _ = self.node("Split", [both, self._query_and_key], names=[f"query_{number}", key], axis=1)
        if self.groups > 1:
            query = self.node("Reshape", [query, self._by_key_head])
        scores = [self.node("FusedMatMul", [query, keys], domain=CONTRIB, transB=1, alpha=self._scale)
                  for keys in (f"key_{number}", key)]
        shares = self.node("Softmax", [self.node("Add", [self.node("Concat", scores, axis=-1), "mask"])], axis=-1)
        held, fed = self.node("Split", [shares, "parts"], 2, axis=-1)
        seen = self.node("Add", [self.node("MatMul", [held, f"value_{number}"]), self.node("MatMul", [fed, new])])
        if self.groups > 1:
            seen = self.node("Reshape", [seen, self._by_head])
        seen = self.node("Reshape", [self.node("Transpose", [seen], perm=[0, 2, 1, 3]), self._flat])
        return self.linear([attention.o_proj], seen)

    def _feed_forward(self, mlp: nn.Module, h: str) -> str:
        gate, up = self.node("Split", [self.linear([mlp.gate_proj, mlp.up_proj], h)], 2, axis=-1, num_outputs=2)
        gate = self.node("QuickGelu", [gate], domain=CONTRIB, alpha=1.0)  # x · sigmoid(x)
        return self.linear([mlp.down_proj], self.node("Mul", [gate, up]))

    def _normalise(self, norm: nn.Module, x: str, added: str | None, name: str = "") -> tuple[str, str]:
        """The sum of x and what is added to it, and that normalised."""
        weight = self.constant(norm.weight)
        if added is None:
            return x, self.node("SimplifiedLayerNormalization", [x, weight], axis=-1, epsilon=self._epsilon)
        total, normal = f"{added}_sum", name or f"{added}_normal"
        self.node("SkipSimplifiedLayerNormalization", [x, added, weight], names=[normal, "", "", total], domain=CONTRIB,
                  epsilon=self._epsilon)
        return total, normal
