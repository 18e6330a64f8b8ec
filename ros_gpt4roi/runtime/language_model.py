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
                 sees: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """Compute hidden states [T, D] of embeddings [T, D] at positions [T].

        Args:
            embeddings: [T, D] of tokens of any number of sequences.
            positions: int64 [T], each token's in its own sequence; or [3, T], in time, rows and columns, where image
                tokens of a model with multi-axis rotary positions are among them.
            cache: Mapped to the tokens' slots.
            sees: bool [T, extent], which slots each token attends to.
            added: [layers, T, D], what is added to the hidden states behind each of the first layers; None: nothing.
        """


class TransformersBody:
    """Any body of transformers."""

    reads_all = False

    def __init__(self, body: nn.Module):
        self._body = body

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """As `Body`'s. Those that take pictures take `added` as features of DeepStack."""
        deepstack = {} if added is None else dict(deepstack_visual_embeds=list(added),
                                                  visual_pos_masks=sees.new_ones(1, len(embeddings)))
        return self._body(inputs_embeds=embeddings.unsqueeze(0), attention_mask=sees[None, None],
                          position_ids=positions.unsqueeze(-2), past_key_values=cache,
                          use_cache=True, **deepstack).last_hidden_state[0]


class LlamaBody:
    """A Llama's, or one with norms of queries and keys besides, as Qwen 3 has them.

    On a small model most of a step is not arithmetic but calls, and this has a third of them. The linear layers are
    called as modules, so that they may be quantised ones. Raises AttributeError for a body that is not built as
    transformers builds a Llama.
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
        self._head_norms = hasattr(first, "q_norm")
        # Where all axes of a token's position are the same, they turn a head as one would.
        self._several_axes = hasattr(self._rotary, "mrope_section") and self._rotary.rope_type == "default"

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: SlotCache,
                 sees: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """As `Body`'s."""
        x, half = embeddings, self._size // 2
        cosine, sine = self._turns(x, positions)
        mask = torch.zeros(sees.shape, dtype=x.dtype, device=x.device).masked_fill_(~sees, float("-inf"))[None, None]
        for number, (norm, attention, to_q, to_k, to_v, to_out, norm_2, gate, up, down,
                     activate) in enumerate(self._layers):
            h = self._normalise(x, norm)
            q, k, v = (project(h).unflatten(-1, (-1, self._size)) for project in (to_q, to_k, to_v))
            if self._head_norms:
                q, k = self._normalise(q, attention.q_norm), self._normalise(k, attention.k_norm)
            heads, both = q.shape[1], torch.cat([q, k], 1)
            both = both * cosine + torch.cat([-both[..., half:], both[..., :half]], -1) * sine
            q, k = both[:, :heads].transpose(0, 1), both[:, heads:].transpose(0, 1)
            keys, values = cache.update(k[None], v.transpose(0, 1)[None], number)
            h = F.scaled_dot_product_attention(q[None], keys, values, mask, scale=self._scale,
                                               enable_gqa=keys.shape[1] != heads)
            x = x + to_out(h[0].transpose(0, 1).flatten(1))
            h = self._normalise(x, norm_2)
            x = x + down(activate(gate(h)) * up(h))
            if added is not None and number < len(added):
                x = x + added[number]
        return self._normalise(x, self._norm)

    def _turns(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine [T, 1, head size] of the angles that tokens' heads are turned by."""
        if positions.ndim > 1 or not self._several_axes:
            cosine, sine = self._rotary(x, positions.unsqueeze(-2))
            return cosine.transpose(0, 1), sine.transpose(0, 1)
        angles = positions.float().unsqueeze(-1) * self._rotary.inv_freq
        angles, scale = torch.cat([angles, angles], -1).unsqueeze(1), self._rotary.attention_scaling
        return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)

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
