"""A small Llama or Qwen 3 run by ONNX Runtime on a CPU: its body over the slot cache, its head with the choice.

On a small model most of a step is not arithmetic but calls: here there are two, where PyTorch takes hundreds. The
graphs are written by hand, of ONNX Runtime's CPU operators, and read and write tensors of PyTorch.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import nn

from ..engine.graph import session_options
from .kv_cache import SlotCache
from .language_model import Body, Choice, Head
from .quantised_linear import Int8DynamicLinear, Int8Linear, multiplies_bytes

CONTRIB = "com.microsoft"  # ONNX Runtime's own operators, documented in its ContribOperators.md
FEW = 16  # up to so many tokens it is calls that cost; of more it is arithmetic, which PyTorch does as well
_BLOCKS = 16, 256  # inputs of an int8 layer that share a scale, for weights and activations alike: powers of two
_INT8_ACTIVATIONS = 4  # accuracy level of MatMulNBits: multiplies bytes
_OPERATORS, _FORMAT = 21, 10  # versions of ONNX
# Rotary tables of other kinds change with the length of the text.
_STATIC_ROTARY = ("default", "linear", "llama3")
_ONE_THREAD = 1 << 22  # weights of a head, of which a product is done before another thread is awake

Tensors = dict[str, torch.Tensor]


class GraphWriter:
    """Nodes and weights of a graph, one after the other."""

    def __init__(self) -> None:
        #: Whether all layers so far compute with float weights.
        self.exact = True
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def node(self, kind: str, inputs: list[str], outputs: int = 1, names: list[str] | None = None,
             **attributes: Any) -> Any:
        """Add a node. Returns the name of its output, or of its outputs where there are more."""
        names = names or [f"{kind}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, value: torch.Tensor) -> str:
        """Add a tensor. Returns its name."""
        name = f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name

    def linear(self, layers: list[Any], x: str) -> str:
        """Add one product for layers that have the same input; the outputs stand one behind the other.

        Raises:
            ValueError: The layers are neither all float32 nor all int8 of one kind, or the CPU is not one for theirs.
        """
        if all(type(layer) is nn.Linear and layer.weight.dtype == torch.float32 for layer in layers):
            out = self.node("MatMul", [x, self.constant(torch.cat([layer.weight for layer in layers]).t())])
        elif all(isinstance(layer, Int8Linear) for layer in layers):
            out = self._int8(*_stacked(layers), x)
        elif all(isinstance(layer, Int8DynamicLinear) for layer in layers):
            out = self._int8_dynamic(*_stacked(layers), x)
        else:
            kinds = sorted({type(layer).__name__ for layer in layers})
            raise ValueError(f"layers of {kinds}, expected float32 or int8 ones, of one kind")
        biases = [layer.bias for layer in layers]
        if all(bias is None for bias in biases):
            return out
        return self.node("Add", [out, self.constant(torch.cat([bias.float() for bias in biases]))])

    def _int8(self, weight: torch.Tensor, scale: torch.Tensor, x: str) -> str:
        self.exact = False
        rows, inputs = weight.shape
        least, most = _BLOCKS
        block = min(most, max(least, 1 << (inputs - 1).bit_length()))
        blocks = -(-inputs // block)
        # Of unsigned weights 128 is the zero, where no other is given.
        weight = nn.functional.pad((weight.short() + 128).to(torch.uint8), (0, blocks * block - inputs), value=128)
        return self.node("MatMulNBits", [x, self.constant(weight.reshape(rows, blocks, block)),
                                         self.constant(scale.unsqueeze(1).expand(rows, blocks))],
                         domain=CONTRIB, K=inputs, N=rows, bits=8, block_size=block, accuracy_level=_INT8_ACTIVATIONS)

    def _int8_dynamic(self, weight: torch.Tensor, scale: torch.Tensor, x: str) -> str:
        """The same numbers as Int8DynamicLinear's."""
        if not multiplies_bytes():
            raise ValueError("int8-dynamic on a CPU that saturates sums of products of bytes, expected VNNI")
        self.exact = False
        last, zero = self.constant(torch.tensor([-1])), self.constant(torch.tensor(128, dtype=torch.uint8))
        least, of_127, middle = (self.constant(torch.tensor(number)) for number in (1e-6, 1 / 127, 128.5))
        largest = self.node("Max", [self.node("ReduceMax", [self.node("Abs", [x]), last], keepdims=1), least])
        step = self.node("Mul", [largest, of_127])
        # Unsigned numbers, of which 128 is the zero: those the instructions take.
        steps = self.node("Cast", [self.node("Add", [self.node("Div", [x, step]), middle])], to=TensorProto.UINT8)
        product = self.node("MatMulInteger", [steps, self.constant(weight.t()), zero])
        product = self.node("Mul", [self.node("Cast", [product], to=TensorProto.FLOAT), step])
        return self.node("Mul", [product, self.constant(scale)])

    def model(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> ModelProto:
        """Make the model of what was added."""
        graph = helper.make_graph(self._nodes, "steps", inputs, outputs, self._weights)
        operators = [helper.make_opsetid("", _OPERATORS), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, ir_version=_FORMAT, opset_imports=operators)


def _stacked(layers: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [out, in] and scales [out] of int8 layers that have the same input, one behind the other."""
    stored = [layer.stored() for layer in layers]
    weight, scale = (torch.cat([tensors[name] for tensors in stored]) for name in ("weight", "scale"))
    return weight, scale.float()


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    """Describe an input or output; a name in its shape stands for any size."""
    return helper.make_tensor_value_info(name, kind, shape)


class Steps:
    """A graph's session, and the tensors that are bound to it for each number of tokens, always at the same addresses.

    Args:
        threads: Gives how many the session is to have, asked at every step.
        prepare: Makes the tensors for a number of tokens: all inputs and outputs by their names, and whatever else
            belongs to them.
    """

    def __init__(self, model: ModelProto, threads: Callable[[], int], prepare: Callable[[int], Tensors]):
        self._model, self._wanted, self._threads, self._prepare = model.SerializeToString(), threads, 0, prepare
        self._session: Any = None  # onnxruntime.InferenceSession, from the first shape on
        self._shapes: dict[int, tuple[Tensors, onnxruntime.IOBinding]] = {}

    def tensors(self, count: int) -> Tensors:
        """What `run` reads and writes for so many tokens."""
        threads = self._wanted()
        if self._threads != threads:
            self._threads = threads
            self._session = onnxruntime.InferenceSession(self._model, session_options(threads),
                                                         providers=["CPUExecutionProvider"])
            self.forget()
        if count not in self._shapes:
            tensors, binding = self._prepare(count), self._session.io_binding()
            for bind, values in ((binding.bind_input, self._session.get_inputs()),
                                 (binding.bind_output, self._session.get_outputs())):
                for name in (item.name for item in values):
                    kind = np.int64 if tensors[name].dtype == torch.int64 else np.float32
                    bind(name, "cpu", 0, kind, tensors[name].shape, tensors[name].data_ptr())
            self._shapes[count] = tensors, binding
        return self._shapes[count][0]

    def run(self, count: int) -> None:
        """Compute the outputs, after `tensors` was asked for the inputs."""
        self._session.run_with_iobinding(self._shapes[count][1])

    def forget(self) -> None:
        """Have everything bound again, where the memory has changed."""
        self._shapes.clear()


class OnnxBody:
    """Steps of few tokens run here, all else in `otherwise`. What is returned holds until the next call.

    Activations become int8, too, for int8 weights of either kind: of int8 with one scale for every 256 of them, of
    int8-dynamic as there with one scale a token. Weights are held a second time.
    context: most positions. Raises AttributeError or ValueError for a body that is not a Llama's in fp32, int8 or
    int8-dynamic on the CPU.
    """

    reads_all = True  # a product's operands lie close together

    def __init__(self, body: Any, context: int, otherwise: Body):
        rotary = body.rotary_emb.rope_type
        if rotary not in _STATIC_ROTARY:
            raise ValueError(f"rotary positions of type {rotary!r}, expected one of {_STATIC_ROTARY}")
        writer = _BodyWriter(body, context)
        self._steps, self._otherwise = Steps(writer.body(), torch.get_num_threads, self._prepare), otherwise
        self._width, self._groups = body.config.hidden_size, writer.groups
        #: Whether it computes with float weights.
        self.exact = writer.exact
        self._over = torch.empty(0)  # the cache's memory that the shapes are bound to

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """As `language_model.Body`."""
        count = len(embeddings)
        if count > FEW or positions.ndim > 1 or added is not None:
            return self._otherwise(embeddings, positions, cache, sees, added)
        if self._over is not cache.memory:
            self._over = cache.memory
            self._steps.forget()
        tensors, slots, seen = self._steps.tensors(count), cache.slots.numpy(), sees.numpy()
        tensors["embeddings"].copy_(embeddings)
        tensors["positions"].copy_(positions)
        # What is fed now is seen beside the cache; its slots still hold what was there before.
        mask, held = tensors["mask"].unflatten(0, (self._groups, count)).numpy(), cache.capacity
        mask.fill(-np.inf)
        mask[:, :, :seen.shape[1]][:, seen] = 0
        mask[:, :, slots] = -np.inf
        mask[:, :, held:][:, seen[:, slots]] = 0
        self._steps.run(count)
        if not np.isfinite(tensors["hidden"].numpy()).all():  # which would spoil all rows; the other keeps them apart
            return self._otherwise(embeddings, positions, cache, sees)
        cache.memory.numpy()[:, :, :, slots] = tensors["new"].numpy()
        return tensors["hidden"][0]

    def _prepare(self, count: int) -> Tensors:
        layers, two, heads, slots, size = self._over.shape
        new = torch.empty(layers, two, heads, count, size)  # keys and values of the tokens, as the cache holds them
        return {"embeddings": torch.empty(1, count, self._width), "positions": torch.empty(1, count, dtype=torch.long),
                "mask": torch.empty(self._groups * count, slots + count), "parts": torch.tensor([slots, count]),
                "hidden": torch.empty(1, count, self._width), "new": new,
                **{f"{prefix}{part}_{layer}": pool[layer, place].unsqueeze(0)
                   for prefix, pool in (("", self._over), ("new_", new))
                   for layer in range(layers) for place, part in enumerate(("key", "value"))}}


class _BodyWriter(GraphWriter):
    """Writes the graph.

    The queries of a key head stand one behind the other, as more tokens would: [1, key heads, groups · T, size]; the
    cache is [1, key heads, slots, size].

    Inputs: embeddings [1, T, D], positions [1, T], mask [groups · T, slots + T] of 0 and −inf, parts = [slots, T], and
    of every layer key_i and value_i. Outputs: hidden [1, T, D], and of every layer new_key_i and new_value_i,
    [1, key heads, T, size].
    """

    def __init__(self, body: Any, context: int):
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

    def _attend(self, attention: Any, h: str, number: int) -> str:
        projected = self.linear([attention.q_proj, attention.k_proj, attention.v_proj], h)
        heads = self.node("Transpose", [self.node("Reshape", [projected, self._apart])], perm=[0, 2, 1, 3])
        key, new = f"new_key_{number}", f"new_value_{number}"
        both, _ = self.node("Split", [heads, self._turned], names=[f"turned_{number}", new], axis=1)
        if hasattr(attention, "q_norm"):
            parts = self.node("Split", [both, self._query_and_key], 2, axis=1)
            both = self.node("Concat", [self._normalise(norm, part, None)[1] for norm, part in
                                        zip((attention.q_norm, attention.k_norm), parts)], axis=1)
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

    def _feed_forward(self, mlp: Any, h: str) -> str:
        gate, up = self.node("Split", [self.linear([mlp.gate_proj, mlp.up_proj], h)], 2, axis=-1, num_outputs=2)
        gate = self.node("QuickGelu", [gate], domain=CONTRIB, alpha=1.0)  # x · sigmoid(x)
        return self.linear([mlp.down_proj], self.node("Mul", [gate, up]))

    def _normalise(self, norm: Any, x: str, added: str | None, name: str = "") -> tuple[str, str]:
        """The sum of x and what is added to it, and that normalised."""
        weight = self.constant(norm.weight)
        if added is None:
            return x, self.node("SimplifiedLayerNormalization", [x, weight], axis=-1, epsilon=self._epsilon)
        total, normal = f"{added}_sum", name or f"{added}_normal"
        self.node("SkipSimplifiedLayerNormalization", [x, added, weight], names=[normal, "", "", total], domain=CONTRIB,
                  epsilon=self._epsilon)
        return total, normal


class OnnxHead:
    """Chooses at few places here, at more in `otherwise`. never: ids [k] of tokens that are not to be chosen.

    Raises ValueError for a layer that is neither of float32 nor of int8 weights.
    """

    def __init__(self, layer: Any, never: torch.Tensor, otherwise: Head):
        writer = GraphWriter()
        logits = writer.linear([layer], "hidden")
        stored: torch.Tensor = layer.weight if type(layer) is nn.Linear else layer.stored()["weight"]
        self._vocabulary, self._width = stored.shape
        threads = torch.get_num_threads if stored.numel() > _ONE_THREAD else lambda: 1
        allowed = torch.zeros(self._vocabulary).index_fill_(0, never, float("-inf"))
        last = writer.constant(torch.tensor([-1]))
        writer.node("Add", [logits, writer.constant(allowed)], names=["logits"])
        writer.node("ArgMax", ["logits"], names=["tokens"], axis=-1, keepdims=0)
        largest, total = (writer.node(kind, ["logits", last], keepdims=0) for kind in ("ReduceMax", "ReduceLogSumExp"))
        writer.node("Exp", [writer.node("Sub", [largest, total])], names=["probabilities"])
        self._steps, self._otherwise = Steps(writer.model(
            [value("hidden", ["n", self._width])],
            [value("logits", ["n", self._vocabulary]), value("tokens", ["n"], TensorProto.INT64),
             value("probabilities", ["n"])]), threads, self._prepare), otherwise

    def __call__(self, hidden: torch.Tensor, wanted: list[int]) -> Choice:
        """As `language_model.Head`."""
        count = len(wanted)
        if count > FEW:
            return self._otherwise(hidden, wanted)
        tensors = self._steps.tensors(count)
        tensors["hidden"].copy_(hidden if count == len(hidden) else hidden[wanted])
        self._steps.run(count)
        return Choice(tensors["tokens"].tolist(), tensors["probabilities"].tolist(), tensors["logits"],
                      np.isfinite(hidden.numpy()).all(-1))

    def _prepare(self, count: int) -> Tensors:
        return {"hidden": torch.empty(count, self._width), "logits": torch.empty(count, self._vocabulary),
                "tokens": torch.empty(count, dtype=torch.long), "probabilities": torch.empty(count)}
