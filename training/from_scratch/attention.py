"""Attention supervision: which tokens of the prompt a token should attend to.

A language model without any training takes very long to find out that "region3", or "the red mug", is to be looked up
in the list of regions: nothing attends there until both halves of the look-up exist (a plateau known from associative
recall, arXiv 2312.04927). Where the text itself says what is meant, a head of every layer behind the first is
therefore drawn to it, as translation models are to aligned words (Chen et al., arXiv 1607.01628). Each kind of look-up
has a head:

0. a region's name, and what an answer says after it, attend to the region in the list;
1. 2. an answer attends to the first and to the last region that its question names, in the list; the first of the two
   heads, where a sentence of the answer has named two, to the one before the last: the last is compared with it;
3. a word of an answer that may agree with the question (a kind, a colour, a side, …) attends to its like in the
   question, else before it in the answer, to the round's beginning where there is none; the "so" of a verdict, the
   "from" of a second comparison and the word "region" behind either attend to the word that decides them;
4. an answer about to name a region attends to it in the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase

from ros_gpt4roi.model.config import IGNORED
from ros_gpt4roi.model.prompt import Encoded
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES

NO_TARGET, HEADS = -1, 5
_COMPARED = (*(word for words in ATTRIBUTES.values() for word in words), "left", "right", "front", "behind")

#: What a question says in place of a compared word.
_LIKES = {"front": ("closer", "closest"), "behind": ("back",), "large": ("larger",), "small": ("smaller",)}


class AttentionTargets:
    """Finds what tokens should attend to, in prompts that list all regions.

    Args:
        tokenizer: Writes digits one by one, as those of `train_tokenizer` do.
        embeddings: Of a region; the first is attended to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, embeddings: int = 1):
        self._embeddings = embeddings

        def last(text: str) -> int:
            return tokenizer.encode(text, add_special_tokens=False)[-1]

        self._words = {last("region"), last(" region")}
        self._digits = {last(str(digit)): str(digit) for digit in range(10)}
        self._compared, self._so, self._and = {last(" " + word) for word in _COMPARED}, last(" so"), last(" and")
        self._from, self._stop = {last("From"), last(" from")}, last(".")
        self._like = {last(" " + word): {last(" " + like) for like in (word, *likes)}
                      for word in _COMPARED for likes in (_LIKES.get(word, ()),)}

    def __call__(self, prompt: Encoded) -> list[list[int]]:
        """For every head and token the place of the token that it should attend to, NO_TARGET for none."""
        found = [[NO_TARGET] * len(prompt.input_ids) for _ in range(HEADS)]
        listed: dict[int, int] = {}
        for place, index in enumerate(prompt.region_index):
            if index >= 0:
                listed.setdefault(index // self._embeddings, place)
        names = self._names(prompt.input_ids, listed)
        self._spoken_of(prompt, names, found[0], found[4])
        begin = max(listed.values(), default=0) + 1
        for first, end in _answers(prompt):
            mentions = [goal for place, (_, goal) in names.items() if begin <= place < first and goal != NO_TARGET]
            for place in range(first - 1, end - 1):  # a token is written at the place before it
                if mentions:
                    found[1][place], found[2][place] = mentions[0], mentions[-1]
            self._compared_with(prompt.input_ids, names, first, end, found[1])
            self._agreements(prompt.input_ids, begin, first, end, found[3])
            begin = end
        return found

    def _names(self, ids: Sequence[int], listed: dict[int, int]) -> dict[int, tuple[int, int]]:
        """Where a region's name begins → (where it ends, its region's place in the list or NO_TARGET), in order."""
        names = {}
        for place in (place for place, token in enumerate(ids) if token in self._words):
            end = place + 1
            while end < len(ids) and ids[end] in self._digits:
                end += 1
            if end > place + 1:
                number = int("".join(self._digits[token] for token in ids[place + 1:end]))
                names[place] = end, listed.get(number - 1, NO_TARGET)
        return names

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

    def _agreements(self, ids: Sequence[int], begin: int, first: int, end: int, found: list[int]) -> None:
        """begin, first, end: where the round, its answer and the next round begin."""
        words = [place for place in range(first, end) if ids[place] in self._compared]
        for place in words:
            before = (*range(first - 1, begin - 1, -1), *range(place - 1, first - 1, -1))
            found[place] = next((p for p in before if ids[p] in self._like[ids[place]]), begin)
            if place + 3 < end and ids[place + 1] == self._and and ids[place + 2] in self._from:
                found[place + 2] = found[place + 3] = place
        so = next((place for place in range(first, end) if ids[place] == self._so), NO_TARGET)
        if words and so > words[-1]:
            alone = [place for place in words if found[place] == begin]
            # Of two regions compared with each other it is the second word that agrees or does not.
            both = self._and in ids[first:so]
            found[so] = alone[-1] if alone and not both else words[-1]
            if so + 1 < end and ids[so + 1] in self._words:  # a region is chosen where its number is about to be said
                found[so + 1] = found[so]


def _answers(prompt: Encoded) -> list[tuple[int, int]]:
    """(first, end) of every run of learned tokens."""
    learned = [False, *(label != IGNORED for label in prompt.labels), False]
    edges = [place for place in range(len(learned) - 1) if learned[place] != learned[place + 1]]
    return list(zip(edges[::2], edges[1::2]))


def attention_loss(language: Any, hidden: Sequence[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy between the heads' attention and its targets.

    Args:
        language: A Llama; one with fewer than HEADS heads does without the last.
        hidden: What goes into every layer, [B, L, D] each.
        targets: Places of tokens [B, HEADS, L], NO_TARGET for none.

    Returns:
        The sum over heads of the mean over all layers but the first; 0 without any target.
    """
    targets = targets[:, :language.config.num_attention_heads]
    wanted = targets != NO_TARGET
    if not wanted.any():
        return hidden[0].new_zeros(())
    # With it comes PyTorch's compiler: seconds for a program that only reads data.
    from transformers.models.llama import modeling_llama

    found = wanted.nonzero()
    heads = found[:, 1]
    weights = 1 / heads.bincount()[heads]  # rare look-ups are not drowned by frequent ones
    places = torch.arange(targets.shape[2], device=targets.device)
    later = places > found[:, 2:]
    cosine, sine = language.model.rotary_emb(hidden[0], places.unsqueeze(0))
    losses = []
    for layer, states in list(zip(language.model.layers, hidden))[1:]:
        attention, states = layer.self_attn, layer.input_layernorm(states)
        width = attention.head_dim
        query = F.linear(states, attention.q_proj.weight[:targets.shape[1] * width])
        query = query.unflatten(-1, (-1, width)).transpose(1, 2)
        key = attention.k_proj(states).unflatten(-1, (-1, width)).transpose(1, 2)
        key = key.repeat_interleave(attention.num_key_value_groups, 1)[:, :query.shape[1]]
        query, key = modeling_llama.apply_rotary_pos_emb(query, key, cosine, sine)
        # Scaled before and masked after the large product: most of it is not wanted.
        scores = ((query * width ** -0.5) @ key.transpose(2, 3))[wanted].float().masked_fill(later, float("-inf"))
        losses.append(F.cross_entropy(scores, targets[wanted], reduction="none") @ weights)
    return torch.stack(losses).mean()
