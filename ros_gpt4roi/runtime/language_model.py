"""The language model in PyTorch, over the slot cache.

Its body runs as transformers runs it, or in fewer operations; then its head.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .kv_cache import SlotCache


class Body(Protocol):
    """What turns embeddings into hidden states, over a cache that is mapped to the tokens' slots.

    Attributes:
        reads_all: Whether a call reads all slots there is memory for, and not only up to the extent.
    """

    reads_all: bool

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor) -> torch.Tensor:
        """Compute hidden states [T, D] of embeddings [T, D] at positions [T].

        Args:
            embeddings: [T, D] of tokens of any number of sequences.
            positions: int64 [T], each token's in its own sequence.
            cache: Mapped to the tokens' slots.
            sees: bool [T, extent], which slots each token attends to.
        """


class TransformersBody:
    """Any body of transformers."""

    reads_all = False

    def __init__(self, body: nn.Module):
        self._body = body

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor) -> torch.Tensor:
        """As `Body`'s."""
        return self._body(inputs_embeds=embeddings.unsqueeze(0), attention_mask=sees[None, None],
                          position_ids=positions.unsqueeze(0), past_key_values=cache,
                          use_cache=True).last_hidden_state[0]


class LlamaBody:
    """A Llama's. On a small model most of a step is not arithmetic but calls, and this has a third of them.

    The linear layers are called as modules, so that they may be quantised ones. Raises AttributeError for a body that
    is not built as transformers builds a Llama.
    """

    reads_all = False

    def __init__(self, body: Any):
        self._rotary, self._norm = body.rotary_emb, body.norm
        self._layers = [(layer.input_layernorm, layer.self_attn, layer.self_attn.q_proj, layer.self_attn.k_proj,
                         layer.self_attn.v_proj, layer.self_attn.o_proj, layer.post_attention_layernorm,
                         layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj, layer.mlp.act_fn)
                        for layer in body.layers]
        first = body.layers[0].self_attn
        self._size, self._scale, self._epsilon = first.head_dim, first.scaling, self._norm.variance_epsilon

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor) -> torch.Tensor:
        """As `Body`'s."""
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

    def _normalise(self, x: torch.Tensor, norm: Any) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, self._epsilon)


class Choice(NamedTuple):
    """The most likely next token at n places.

    Attributes:
        tokens: Their ids.
        probabilities: The tokens' probabilities there.
        logits: All logits [n, V] in float32; they hold until the next call.
        finite: Of every hidden state whether it is finite, bool [T].
    """

    tokens: list[int]
    probabilities: list[float]
    logits: torch.Tensor
    finite: np.ndarray


# Hidden states [T, D] and the n places that are wanted, in order → the choice.
Head = Callable[[torch.Tensor, list[int]], Choice]


class TorchHead:
    """The model's own output layer. never: ids [k] of tokens that are not to be chosen."""

    def __init__(self, layer: nn.Module, never: torch.Tensor):
        self._layer, self._never = layer, never

    def __call__(self, hidden: torch.Tensor, wanted: list[int]) -> Choice:
        """As `Head`."""
        every = len(wanted) == len(hidden)
        logits = self._layer(hidden if every else hidden[wanted]).float().index_fill_(-1, self._never, float("-inf"))
        greedy = logits.argmax(-1)
        chosen = logits.gather(-1, greedy.unsqueeze(-1)).squeeze(-1)
        finite = hidden.float().sum(-1).isfinite()
        # Tokens as doubles lose nothing, and one tensor is one readback.
        packed = torch.cat([greedy.double(), (chosen - logits.logsumexp(-1)).exp().double(), finite.double()]).tolist()
        count = len(wanted)
        return Choice([int(token) for token in packed[:count]], packed[count:2 * count], logits,
                      np.array(packed[2 * count:]) > 0)
