"""Attention supervision: which tokens of the prompt a token should attend to where a text speaks of regions.

That "region3", or "the red mug", is to be looked up in the list of regions is what a language model finds out last:
nothing attends there until both halves of the look-up exist (a plateau known from associative recall, arXiv
2312.04927). Where the text itself says which region is meant, attention is therefore drawn to it, as translation models
are drawn to aligned words (Chen et al., arXiv 1607.01628).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from transformers import PreTrainedTokenizerBase

from ros_gpt4roi.model.config import IGNORED
from ros_gpt4roi.model.prompt import Encoded

NO_TARGET = -1


class RegionTargets:
    """Finds what tokens should attend to, in prompts that list all regions.

    The look-ups are of five kinds:

    0. a region's name, and what an answer says after it, attend to the region in the list;
    1. an answer attends to the first region that its question names, in the list; where one of its sentences has named
       two, to the one before the last: the last is compared with it;
    2. an answer attends to the last region that its question names;
    3. an answer about to name a region attends to it in the list: one that has to be found by what it is or where;
    4. likewise one that the question names: to copy a number is easy, and a head that learns both does not find.

    Args:
        tokenizer: Writes digits one by one, as those of Llama and SmolLM2 and of `train_tokenizer` do.
        embeddings: Of a region; the first is attended to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, embeddings: int = 1):
        self._embeddings = embeddings
        self._words = {last_token(tokenizer, "region"), last_token(tokenizer, " region")}
        self._digits = {last_token(tokenizer, str(digit)): str(digit) for digit in range(10)}
        self._stop = last_token(tokenizer, ".")

    def __call__(self, prompt: Encoded) -> list[list[int]]:
        """For every kind and token the place of the token that it should attend to, NO_TARGET for none."""
        spoken_of, first_asked, last_asked, chosen, copied = ([NO_TARGET] * len(prompt.input_ids) for _ in range(5))
        names = self._names(prompt)
        self._spoken_of(prompt, names, spoken_of, chosen)
        for begin, first, end in self._rounds(prompt):
            asked = [goal for place, (_, goal) in names.items() if begin <= place < first and goal != NO_TARGET]
            for place in range(first - 1, end - 1):  # a token is written at the place before it
                if asked:
                    first_asked[place], last_asked[place] = asked[0], asked[-1]
            self._compared_with(prompt.input_ids, names, first, end, first_asked)
            for place in range(first - 1, end - 1):
                if chosen[place] in asked:
                    copied[place], chosen[place] = chosen[place], NO_TARGET
        return [spoken_of, first_asked, last_asked, chosen, copied]

    def _listed(self, prompt: Encoded) -> dict[int, int]:
        """Region, from 0 → its place in the list."""
        listed: dict[int, int] = {}
        for place, index in enumerate(prompt.region_index):
            if index >= 0:
                listed.setdefault(index // self._embeddings, place)
        return listed

    def _rounds(self, prompt: Encoded) -> list[tuple[int, int, int]]:
        """Where every round behind the list, its answer and the next round begin."""
        answers = _answers(prompt)
        begins = [max(self._listed(prompt).values(), default=0) + 1, *(end for _, end in answers)]
        return [(begin, first, end) for begin, (first, end) in zip(begins, answers)]

    def _names(self, prompt: Encoded) -> dict[int, tuple[int, int]]:
        """Where a region's name begins → (where it ends, its region's place in the list or NO_TARGET), in order."""
        ids, listed, names = prompt.input_ids, self._listed(prompt), {}
        for place in (place for place, token in enumerate(ids) if token in self._words):
            end = place + 1
            while end < len(ids) and ids[end] in self._digits:
                end += 1
            if end > place + 1:
                number = int("".join(self._digits[token] for token in ids[place + 1:end]))
                names[place] = end, listed.get(number - 1, NO_TARGET)
        return names

    def _compared_with(self, ids: Sequence[int], names: dict[int, tuple[int, int]], first: int, end: int,
                       found: list[int]) -> None:
        before = last = NO_TARGET
        for place in range(first, end - 1):
            if ids[place] == self._stop:
                before = last = NO_TARGET
            if before != NO_TARGET:
                found[place] = before
            if place in names:
                before, last = last, names[place][1]

    def _spoken_of(self, prompt: Encoded, names: dict[int, tuple[int, int]], found: list[int],
                   chosen: list[int]) -> None:
        learned = [label != IGNORED for label in prompt.labels]
        spoken_of, place = NO_TARGET, 0
        while place < len(learned):
            if place in names:
                end, goal = names[place]
                if NO_TARGET < goal < place:  # a region is not looked up before it is listed
                    found[end - 1] = goal
                    if learned[place]:
                        chosen[place], found[place] = goal, spoken_of
                spoken_of = goal if learned[place] else NO_TARGET
                place = end
                continue
            if not learned[place]:
                spoken_of = NO_TARGET
            found[place] = spoken_of
            place += 1


def last_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The id of the token that a text ends with."""
    return tokenizer.encode(text, add_special_tokens=False)[-1]


def _answers(prompt: Encoded) -> list[tuple[int, int]]:
    """(first, end) of every run of learned tokens."""
    learned = [False, *(label != IGNORED for label in prompt.labels), False]
    edges = [place for place in range(len(learned) - 1) if learned[place] != learned[place + 1]]
    return list(zip(edges[::2], edges[1::2]))


def queries_and_keys(language: Any, hidden: Sequence[torch.Tensor],
                     layers: Iterable[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What layers' heads compare: queries, scaled, and keys, both [B, heads, L, width] with their rotary positions.

    Args:
        language: A Llama.
        hidden: What goes into every layer, [B, L, D] each.
        layers: Which, from 0.
    """
    # With it comes PyTorch's compiler: seconds for a program that only reads data.
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    places = torch.arange(hidden[0].shape[1], device=hidden[0].device)
    cosine, sine = language.model.rotary_emb(hidden[0], places.unsqueeze(0))
    for layer in layers:
        block = language.model.layers[layer]
        attention, states = block.self_attn, block.input_layernorm(hidden[layer])
        query, key = (part(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
                      for part in (attention.q_proj, attention.k_proj))
        query, key = apply_rotary_pos_emb(query, key, cosine, sine)
        # Scaled before the large product: most of it is not wanted.
        yield query * attention.head_dim ** -0.5, key.repeat_interleave(attention.num_key_value_groups, 1)


def best_head_loss(language: Any, hidden: Sequence[torch.Tensor], targets: torch.Tensor,
                   layers: Sequence[int]) -> torch.Tensor:
    """Cross entropy between attention and its targets, of the heads that are nearest to them already.

    So the heads of a pretrained language model keep to what they do as far as can be. No head of a layer is taken for
    two kinds: what attends to both of two regions cannot tell how one stands to the other.

    Args:
        language: A Llama.
        hidden: What goes into every layer, [B, L, D] each.
        targets: Places of tokens for each kind of look-up, [B, K, L], NO_TARGET for none.
        layers: Which are supervised, from 0.

    Returns:
        The sum over kinds of the mean over the layers; 0 without any target. With fewer heads than kinds, the kinds
        that are nearest to one have theirs.
    """
    wanted = (targets != NO_TARGET).unsqueeze(2)
    counts = wanted.sum((0, 2, 3))
    if not counts.any():
        return hidden[0].new_zeros(())
    goals = targets.clamp(min=0)
    places = torch.arange(targets.shape[2], device=targets.device)
    later = places > places.unsqueeze(1)
    losses = []
    for query, key in queries_and_keys(language, hidden, layers):
        scores = (query @ key.transpose(2, 3)).float()
        heads = scores.shape[1]
        attended = torch.stack([scores.gather(3, goal[:, None, :, None].expand(-1, heads, -1, -1)).squeeze(3)
                                for goal in goals.unbind(1)], 1)  # [B, K, heads, L]
        missed = scores.masked_fill(later, float("-inf")).logsumexp(3).unsqueeze(1) - attended
        means = (missed * wanted).sum((0, 3))[counts > 0] / counts[counts > 0].unsqueeze(1)
        losses.append(means[linear_sum_assignment(means.detach().cpu())].sum())
    return torch.stack(losses).mean()
