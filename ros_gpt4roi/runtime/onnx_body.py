"""A small Llama's body over the slot cache, run by ONNX Runtime: on a CPU a third of the time that calls of PyTorch take."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from .body import Body
from .kv_cache import SlotCache
from .quantised_linear import Int8DynamicLinear, Int8Linear

_CONTRIB = "com.microsoft"  # ONNX Runtime's own operators, documented in its ContribOperators.md
_FEW = 16  # up to so many tokens it is calls that cost; of more it is arithmetic, which PyTorch does as well
_BLOCK = 64  # inputs of an int8 layer that share a scale, for weights and activations alike
_INT8_ACTIVATIONS = 4  # accuracy level of MatMulNBits: multiplies bytes
_FLOAT = TensorProto.FLOAT
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

    In int8 of either kind activations become int8 too, one scale for every 64 of them. Weights are held a second time.
    context: most positions. Raises AttributeError or ValueError for a body that is not a Llama's in fp32, int8 or
    int8-dynamic on the CPU.
    """

    def __init__(self, body: nn.Module, context: int, otherwise: Body):
        if body.rotary_emb.rope_type not in _STATIC_ROTARY:
            raise ValueError(f"rotary positions of type {body.rotary_emb.rope_type!r}, expected one of {_STATIC_ROTARY}")
        graph = _Graph(body, context)
        self._model, self._otherwise = graph.model().SerializeToString(), otherwise
        #: Whether it computes with float weights.
        self.exact = graph.exact
        self._session: onnxruntime.InferenceSession | None = None
        self._threads = 0
        self._shapes: dict[int, _Shape] = {}
        self._over: torch.Tensor | None = None  # the cache's memory that the shapes are bound to

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor) -> torch.Tensor:
        """As `body.Body`."""
        count = len(embeddings)
        if count > _FEW:
            return self._otherwise(embeddings, positions, cache, sees)
        shape, slots, seen = self._shape(count, cache), cache.slots.numpy(), sees.numpy()
        shape.embeddings.copy_(embeddings)
        shape.positions.copy_(positions)
        # What is fed now is seen beside the cache; its slots still hold what was there before.
        mask, held = shape.mask.numpy(), cache.capacity
        mask.fill(-np.inf)
        mask[:, :seen.shape[1]][seen] = 0
        mask[:, slots] = -np.inf
        mask[:, held:][seen[:, slots]] = 0
        self._session.run_with_iobinding(shape.binding)
        if not np.isfinite(shape.hidden.numpy()).all():  # which would spoil every row; the other body keeps them apart
            return self._otherwise(embeddings, positions, cache, sees)
        cache.fill(slots, shape.new)
        return shape.hidden[0]

    def _shape(self, count: int, cache: SlotCache) -> _Shape:
        if self._threads != torch.get_num_threads():
            self._threads = torch.get_num_threads()
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self._threads
            self._session = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
            self._shapes.clear()
        if self._over is not cache.memory:
            self._over = cache.memory
            self._shapes.clear()
        if count not in self._shapes:
            self._shapes[count] = self._prepare(count, cache)
        return self._shapes[count]

    def _prepare(self, count: int, cache: SlotCache) -> _Shape:
        layers, two, heads, slots, size = cache.memory.shape
        width = self._session.get_inputs()[0].shape[2]
        shape = _Shape(torch.empty(1, count, width), torch.empty(1, count, dtype=torch.long),
                       torch.empty(count, slots + count), torch.tensor([slots, count]), torch.empty(1, count, width),
                       torch.empty(layers, two, heads, count, size),
                       self._session.io_binding())
        for name in ("embeddings", "positions", "mask", "parts"):
            _bind(shape.binding.bind_input, name, getattr(shape, name))
        _bind(shape.binding.bind_output, "hidden", shape.hidden)
        for bind, prefix, pool in ((shape.binding.bind_input, "", cache.memory), (shape.binding.bind_output, "new_", shape.new)):
            for layer, pair in enumerate(pool.unsqueeze(3)):
                for part, value in zip(("key", "value"), pair):
                    _bind(bind, f"{prefix}{part}_{layer}", value)
        return shape


def _bind(bind: Callable[..., None], name: str, value: torch.Tensor) -> None:
    kind = np.int64 if value.dtype == torch.int64 else np.float32
    bind(name, "cpu", 0, kind, value.shape, value.data_ptr())


class _Graph:
    """Writes the ONNX graph. Queries are [key heads, queries a key head, T, size], the cache [key heads, 1, slots, size].

    Inputs: embeddings [1, T, D], positions [1, T], mask [T, slots + T] of 0 and −inf, parts = [slots, T], and of every layer
    key_i and value_i. Outputs: hidden [1, T, D], and of every layer new_key_i and new_value_i, [key heads, 1, T, size].
    """

    def __init__(self, body: nn.Module, context: int):
        if body.norm.weight.dtype != torch.float32:
            raise ValueError(f"weights of {body.norm.weight.dtype}, expected float32 or int8")
        if body.config.hidden_act != "silu":
            raise ValueError(f"activation {body.config.hidden_act!r}, expected 'silu'")
        self.exact = True
        self._body, self._nodes, self._weights = body, [], []
        attention = body.layers[0].self_attn
        self._size, self._scale = attention.head_dim, attention.scaling
        self._epsilon = body.norm.variance_epsilon
        self._key_heads = body.config.num_key_value_heads
        self._groups = body.config.num_attention_heads // self._key_heads
        place = torch.arange(context).unsqueeze(0)
        tables = body.rotary_emb(body.norm.weight.float(), place)
        # Both halves of a head turn by the same angles.
        self._rotary = [self._constant(table[0, :, :self._size // 2]) for table in tables]
        query, key = self._groups * self._key_heads * self._size, self._key_heads * self._size
        self._turned = self._constant(torch.tensor([query + key, key]))
        self._query_and_key = self._constant(torch.tensor([query, key]))
        self._as_query = self._constant(torch.tensor([-1, self._key_heads, self._groups, self._size]))
        self._as_key = self._constant(torch.tensor([-1, self._key_heads, 1, self._size]))
        self._flat = self._constant(torch.tensor([1, -1, query]))

    def model(self) -> ModelProto:
        """The whole graph."""
        x, added = "embeddings", None
        for number, layer in enumerate(self._body.layers):
            x, h = self._normalise(layer.input_layernorm, x, added)
            x, h = self._normalise(layer.post_attention_layernorm, x, self._attend(layer.self_attn, h, number))
            added = self._feed_forward(layer.mlp, h)
        self._normalise(self._body.norm, x, added, "hidden")
        width, heads = self._body.config.hidden_size, self._key_heads
        inputs = [_value("embeddings", [1, "T", width]), _value("positions", [1, "T"], TensorProto.INT64),
                  _value("mask", ["T", "all"]), _value("parts", [2], TensorProto.INT64)]
        outputs = [_value("hidden", [1, "T", width])]
        for number in range(len(self._body.layers)):
            for part in ("key", "value"):
                inputs.append(_value(f"{part}_{number}", [heads, 1, "slots", self._size]))
                outputs.append(_value(f"new_{part}_{number}", [heads, 1, "T", self._size]))
        graph = helper.make_graph(self._nodes, "body", inputs, outputs, self._weights)
        return helper.make_model(graph, ir_version=10,
                                 opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(_CONTRIB, 1)])

    def _attend(self, attention: nn.Module, h: str, number: int) -> str:
        projected = self._linear([attention.q_proj, attention.k_proj, attention.v_proj], h)
        both, value = self._node("Split", [projected, self._turned], 2, axis=-1)
        # The heads' number goes by their size, that of the tables.
        both = self._node("RotaryEmbedding", [both, "positions", *self._rotary], domain=_CONTRIB)
        query, key = self._node("Split", [both, self._query_and_key], 2, axis=-1)
        query = self._heads(query, self._as_query)
        key = self._heads(key, self._as_key, f"new_key_{number}")
        value = self._heads(value, self._as_key, f"new_value_{number}")
        scores = [self._node("FusedMatMul", [query, keys], domain=_CONTRIB, transB=1, alpha=self._scale)
                  for keys in (f"key_{number}", key)]
        shares = self._node("Softmax", [self._node("Add", [self._node("Concat", scores, axis=-1), "mask"])], axis=-1)
        held, new = self._node("Split", [shares, "parts"], 2, axis=-1)
        seen = self._node("Add", [self._node("MatMul", [held, f"value_{number}"]), self._node("MatMul", [new, value])])
        seen = self._node("Reshape", [self._node("Transpose", [seen], perm=[2, 0, 1, 3]), self._flat])
        return self._linear([attention.o_proj], seen)

    def _heads(self, flat: str, shape: str, name: str = "") -> str:
        apart = self._node("Reshape", [flat, shape])
        return self._node("Transpose", [apart], names=[name] if name else None, perm=[1, 2, 0, 3])

    def _feed_forward(self, mlp: nn.Module, h: str) -> str:
        gate, up = self._node("Split", [self._linear([mlp.gate_proj, mlp.up_proj], h)], 2, axis=-1, num_outputs=2)
        gate = self._node("QuickGelu", [gate], domain=_CONTRIB, alpha=1.0)  # x · sigmoid(x)
        return self._linear([mlp.down_proj], self._node("Mul", [gate, up]))

    def _normalise(self, norm: nn.Module, x: str, added: str | None, name: str = "") -> tuple[str, str]:
        """The sum of x and what is added to it, and that normalised."""
        weight = self._constant(norm.weight)
        if added is None:
            return x, self._node("SimplifiedLayerNormalization", [x, weight], axis=-1, epsilon=self._epsilon)
        total = f"sum_{len(self._nodes)}"
        normal = name or f"normal_{len(self._nodes)}"
        self._nodes.append(helper.make_node("SkipSimplifiedLayerNormalization", [x, added, weight], [normal, "", "", total],
                                            domain=_CONTRIB, epsilon=self._epsilon))
        return total, normal

    def _linear(self, layers: list[nn.Module], x: str) -> str:
        """One product for layers that have the same input; the outputs one behind the other."""
        if all(type(layer) is nn.Linear for layer in layers):
            weight = torch.cat([layer.weight for layer in layers])
            out = self._node("MatMul", [x, self._constant(weight.t())])
        elif all(isinstance(layer, (Int8Linear, Int8DynamicLinear)) for layer in layers):
            self.exact = False
            stored = [layer.stored() for layer in layers]
            weight = torch.cat([tensors["weight"] for tensors in stored])
            rows, inputs = weight.shape
            if inputs % _BLOCK:
                raise ValueError(f"a layer of {inputs} inputs, expected a multiple of {_BLOCK}")
            scale = torch.cat([tensors["scale"].float() for tensors in stored])
            # Of unsigned weights 128 is the zero, where no other is given.
            quantised = (weight.short() + 128).to(torch.uint8).reshape(rows, inputs // _BLOCK, _BLOCK)
            scales = scale.unsqueeze(1).expand(rows, inputs // _BLOCK)
            out = self._node("MatMulNBits", [x, self._constant(quantised), self._constant(scales)], domain=_CONTRIB, K=inputs,
                             N=rows, bits=8, block_size=_BLOCK, accuracy_level=_INT8_ACTIVATIONS)
        else:
            raise ValueError(f"layers of {sorted({type(layer).__name__ for layer in layers})}, expected float or int8 ones")
        biases = [layer.bias for layer in layers]
        if all(bias is None for bias in biases):
            return out
        return self._node("Add", [out, self._constant(torch.cat([bias.float() for bias in biases]))])

    def _node(self, kind: str, inputs: list[str], outputs: int = 1, names: list[str] | None = None, **attributes):
        names = names or [f"{kind}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def _constant(self, value: torch.Tensor) -> str:
        name = f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name


def _value(name: str, shape: list, kind: int = _FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)
