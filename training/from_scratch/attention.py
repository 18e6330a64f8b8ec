"""Attention supervision of a language model without any training.

It needs more than one that is pretrained (training/region_attention.py has what both do), for it has no heads yet that
could be taken: each kind of look-up is given a head of every layer behind the first.

0. a region's name, and what an answer says after it, attend to the region in the list;
1. 2. an answer attends to the first and to the last region that its question names, in the list; the first of the two
   heads, where a sentence of the answer has named two, to the one before the last;
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
from typing_extensions import override

from ros_gpt4roi.model.prompt import Encoded
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES
from training.region_attention import NO_TARGET, RegionTargets, last_token, queries_and_keys

HEADS = 5
_COMPARED = (*(word for words in ATTRIBUTES.values() for word in words), "left", "right", "front", "behind")

#: What a question says in place of a compared word.
_LIKES = {"front": ("closer", "closest"), "behind": ("back",), "large": ("larger",), "small": ("smaller",)}


class AttentionTargets(RegionTargets):
    """Finds what tokens should attend to, in prompts that list all regions.

    Args:
        tokenizer: Writes digits one by one, as those of `train_tokenizer` do.
        embeddings: Of a region; the first is attended to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, embeddings: int = 1):
        super().__init__(tokenizer, embeddings)

        def last(text: str) -> int:
            return last_token(tokenizer, text)

        self._compared, self._so, self._and = {last(" " + word) for word in _COMPARED}, last(" so"), last(" and")
        self._from = {last("From"), last(" from")}
        self._like = {last(" " + word): {last(" " + like) for like in (word, *likes)}
                      for word in _COMPARED for likes in (_LIKES.get(word, ()),)}

    @override
    def __call__(self, prompt: Encoded) -> list[list[int]]:
        """For every head and token the place of the token that it should attend to, NO_TARGET for none."""
        spoken_of, first_asked, last_asked, *found = super().__call__(prompt)
        chosen = [max(goals) for goals in zip(*found)]  # a head of its own learns both
        agreement = [NO_TARGET] * len(prompt.input_ids)
        for begin, first, end in self._rounds(prompt):
            self._agreements(prompt.input_ids, begin, first, end, agreement)
        return [spoken_of, first_asked, last_asked, agreement, chosen]

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
    heads = targets.shape[1]
    wanted = targets != NO_TARGET
    if not wanted.any():
        return hidden[0].new_zeros(())
    found = wanted.nonzero()
    weights = 1 / found[:, 1].bincount()[found[:, 1]]  # rare look-ups are not drowned by frequent ones
    later = torch.arange(targets.shape[2], device=targets.device) > found[:, 2:]
    losses = []
    for query, key in queries_and_keys(language, hidden, range(1, language.config.num_hidden_layers)):
        # Masked after the large product: most of it is not wanted.
        scores = (query[:, :heads] @ key[:, :heads].transpose(2, 3))[wanted].float().masked_fill(later, float("-inf"))
        losses.append(F.cross_entropy(scores, targets[wanted], reduction="none") @ weights)
    return torch.stack(losses).mean()
