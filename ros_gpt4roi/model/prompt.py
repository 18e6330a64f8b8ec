"""Conversations with region references → token ids, splice positions and what is to be learned.

In a conversation's text `<regionK>` refers to region K, the K-th box of the frame counted from 1, by name, `<boxK>` by
its bare token and `<pointK>` by the bare token of a point. A named region's embedding is spliced in where a question
first mentions it: `region1 <bbox>` there (`region1 <point>` where the region is a point), `region1` elsewhere. Image
tokens stand between `<im_start>` and `<im_end>`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from .config import IGNORED, ModelConfig, PromptConfig
from .templates import template

IMAGE_PATCH, BOX, POINT, IMAGE_START, IMAGE_END = "<im_patch>", "<bbox>", "<point>", "<im_start>", "<im_end>"
# The order in which the published checkpoint adds them to its tokenizer.
SPECIAL_TOKENS = (IMAGE_PATCH, BOX, POINT, IMAGE_START, IMAGE_END)
_REFERENCE = re.compile(r"<(region|box|point)(\d+)>")


class PromptError(ValueError):
    """Text that cannot become a prompt; the message names the offending part and what was expected."""


@dataclass(frozen=True)
class Encoded:
    """A tokenised conversation; the three lists have one entry a token.

    Attributes:
        input_ids: Token ids.
        labels: The id where it is learned, −100 elsewhere.
        region_index: Which of the frame's N·K region embeddings takes the token's place, −1 for none.
        dropped_rounds: How many of the oldest rounds did not fit the context.
    """

    input_ids: list[int]
    labels: list[int]
    region_index: list[int]
    dropped_rounds: int = 0


class References(ABC):
    """What a conversation's references to regions become, for one model.

    Attributes:
        config: The model's wording.
        special: Texts that only the program may write.
    """

    config: PromptConfig
    special: list[str]

    def check_user_text(self, text: str) -> None:
        """Raise PromptError where a person's text holds a marker that only the program may write."""
        found = [t for t in self.special if t and t in text] + [m.group() for m in _REFERENCE.finditer(text)]
        if found:
            raise PromptError(f"the text holds {found[0]!r}, which is reserved: "
                              "write \"region 2\" to speak of a region")

    def as_said(self, text: str) -> str:
        """Make of what the model said a round of its conversation: there, too, it must not write a marker.

        It can spell one, such as when a sign in the picture says it. A space takes its meaning.
        """
        for token in self.special:
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return _REFERENCE.sub(lambda match: f"< {match.group()[1:]}", text)

    def _list_of_regions(self, n_regions: int) -> str:
        """All regions, before the first question; may hold references."""
        listed = [self._listed(k) for k in range(1, min(n_regions, self.config.max_regions) + 1)]
        return self.config.preamble.replace("{regions}", self.config.separator.join(listed)) if listed else ""

    def _resolve(self, text: str, n_regions: int, points: frozenset[int], regions: list[int],
                 mentioned: set[int] | None) -> str:
        """Put names and tokens in place of a text's references.

        Args:
            text: With references such as `<region1>`.
            n_regions: How many there are.
            points: Numbers, from 1, of the regions that are points.
            regions: Takes the numbers of the regions whose embeddings the text holds, in order.
            mentioned: Regions that questions have mentioned so far; None for an answer, where names are only names:
                what the model writes cannot carry an embedding, so it must not learn to write a region token.
        """
        def replace(match: re.Match[str]) -> str:
            kind, number = match.group(1), int(match.group(2))
            if not 1 <= number <= n_regions:
                raise PromptError(f"the text refers to {match.group()}, expected a region from 1 to {n_regions}")
            plain = mentioned is None or number in mentioned
            if mentioned is not None:
                mentioned.add(number)
            name = self._name(number)
            if kind == "region" and plain:
                return name
            shown = self._shown(number, kind == "point" or number in points, regions)
            return f"{name} {shown}" if kind == "region" else shown

        return _REFERENCE.sub(replace, text)

    def _asked(self, question: str) -> str:
        """A question as the model is asked it."""
        return question

    @abstractmethod
    def _name(self, number: int) -> str:
        """What a region is called."""

    @abstractmethod
    def _listed(self, number: int) -> str:
        """A region in the list before the first question; may hold references."""

    @abstractmethod
    def _shown(self, number: int, is_point: bool, regions: list[int]) -> str:
        """What says where a region is; `regions` takes the numbers of the embeddings that it holds."""


class ChatPrompts(References):
    """Prompts of one model: rounds about one frame, its image tokens before the first question.

    Args:
        tokenizer: A fast transformers tokenizer (offsets are needed).
        config: The model's wording.
        markers: Texts that the tokenizer must know as one token each.
        image_marks: What stands before, for and behind the image tokens, each one of the markers.
        image_tokens: Image tokens a frame.

    Attributes:
        image_patch_id: Id of the placeholder of image tokens.
        never: Ids of tokens that mean nothing in an answer.
        ends: Ids of tokens that end an answer beside the tokenizer's and the format's own.
        region_ids: Ids of the tokens that region embeddings take the place of.
        embeddings: How many of them a region has.

    Raises:
        PromptError: The tokenizer splits a marker into several tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig, markers: Sequence[str],
                 image_marks: tuple[str, str, str], image_tokens: int):
        self.tokenizer, self.config, self.image_tokens = tokenizer, config, image_tokens
        self.template = template(config.template)
        # The end mark, too, where it is plain text: a person could otherwise write the other side's turns.
        self.special = [*markers, *self.template.tokens, self.template.end.strip(), *tokenizer.all_special_tokens]
        for token in (*markers, *self.template.tokens):
            ids = tokenizer.encode(token, add_special_tokens=False)
            if len(ids) != 1:
                raise PromptError(f"the tokenizer splits {token!r} into {ids}, expected one special token")
        self._image_marks = image_marks
        self.never: list[int] = tokenizer.convert_tokens_to_ids(list(image_marks))
        self.image_patch_id = self.never[1]
        self.region_ids: tuple[int, ...] = ()
        self.embeddings = 1
        self.ends: tuple[int, ...] = ()

    @property
    def stop_text(self) -> str:
        """What the model writes when its answer is over."""
        return self.template.end

    def of_frame(self, image_tokens: int, boxes: np.ndarray | None) -> ChatPrompts:
        """The same for one frame.

        Args:
            image_tokens: How many it has.
            boxes: Its regions' boxes in units of the image, float32 [N, 4]; for prompts that say them in words.
        """
        return self

    def encode(self, rounds: Sequence[tuple[str, str | None]], n_regions: int, *, list_regions: bool = False,
               points: Collection[int] = (), reserve: int = 0) -> Encoded:
        """Tokenise a conversation about one frame.

        Where it does not fit `prompt.context`, whole oldest rounds are left out; what refers to a region for the first
        time among those left then carries its embedding.

        Args:
            rounds: (question, answer) pairs, oldest first; the last answer may be None: the prompt then ends where the
                model has to write it.
            n_regions: Boxes of the frame; references beyond it are an error.
            list_regions: Introduce all regions in the preamble, so that any of them may be spoken of.
            points: Numbers (from 1) of the regions that are points.
            reserve: Tokens of the context left free for the answer.

        Returns:
            The tokens, with what is learned and what is spliced in.

        Raises:
            PromptError: No rounds, an unknown region, or a last round that alone does not fit.
        """
        if not rounds:
            raise PromptError("a conversation without rounds, expected at least one question")
        room = self.config.context - reserve
        for dropped in range(len(rounds)):
            encoded = self._encode(rounds[dropped:], n_regions, list_regions, frozenset(points), dropped)
            if len(encoded.input_ids) <= room:
                return encoded
        raise PromptError(f"the prompt has {len(encoded.input_ids)} tokens, expected at most {room} "
                          f"(prompt.context {self.config.context}, {reserve} of them reserved for the answer)")

    def _encode(self, rounds: Sequence[tuple[str, str | None]], n_regions: int, list_regions: bool,
                points: frozenset[int], dropped: int) -> Encoded:
        text, learned, regions = self._render(rounds, n_regions, list_regions, points)
        tokens = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=True)
        ids = tokens["input_ids"]
        labels, region_index = [IGNORED] * len(ids), [-1] * len(ids)
        mentions = iter(regions)
        span = 0
        for i, (token, (begin, end)) in enumerate(zip(ids, tokens["offset_mapping"])):
            if token in self.region_ids:
                region_index[i] = next(mentions)
            while span < len(learned) and learned[span][1] <= begin:
                span += 1
            # Offsets, not lengths of separately tokenised pieces: a token belongs to what its characters belong to.
            if span < len(learned) and learned[span][0] <= begin and end <= learned[span][1]:
                labels[i] = token
        return Encoded(ids, labels, region_index, dropped)

    def _render(self, rounds: Sequence[tuple[str, str | None]], n_regions: int, list_regions: bool,
                points: frozenset[int]) -> tuple[str, list[tuple[int, int]], list[int]]:
        """The text, the character spans to be learned, and the embedding index of every region token in order."""
        t, mentioned, regions = self.template, set[int](), list[int]()
        system = self.config.system or t.default_system
        text = t.before_system + system + t.after_system if system else ""
        learned = []
        for number, (question, answer) in enumerate(rounds):
            question = self._asked(question)
            if number == 0:
                question = self._introduction(n_regions, list_regions) + question
            text += t.before_question + self._resolve(question, n_regions, points, regions, mentioned) + t.before_answer
            if answer is None:
                break
            begin = len(text)
            text += t.opening + self._resolve(answer, n_regions, points, regions, None) + t.end
            learned.append((begin, len(text)))
            text += t.close if number == len(rounds) - 1 else t.between
        return text, learned, regions

    def _introduction(self, n_regions: int, list_regions: bool) -> str:
        start, patch, end = self._image_marks
        image = start + patch * self.image_tokens + end
        text = self.config.image_text.replace("{image}", image)
        return text + self._list_of_regions(n_regions) if list_regions else text


class PromptBuilder(ChatPrompts):
    """Prompts in which region embeddings take the place of tokens.

    Args:
        tokenizer: A fast transformers tokenizer that knows SPECIAL_TOKENS.
        config: The model's.
        image_tokens: Image tokens a frame.

    Raises:
        PromptError: The tokenizer splits a marker into several tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, image_tokens: int):
        super().__init__(tokenizer, config.prompt, SPECIAL_TOKENS, (IMAGE_START, IMAGE_PATCH, IMAGE_END), image_tokens)
        self.embeddings = config.regions.embeddings
        self.region_ids = tuple(tokenizer.convert_tokens_to_ids((BOX, POINT)))

    def _name(self, number: int) -> str:
        return f"region{number}"

    def _listed(self, number: int) -> str:
        return f"<region{number}>"

    def _shown(self, number: int, is_point: bool, regions: list[int]) -> str:
        regions.extend((number - 1) * self.embeddings + k for k in range(self.embeddings))
        return (POINT if is_point else BOX) * self.embeddings
