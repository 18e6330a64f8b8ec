"""Conversations about a frame as the messages of OpenAI's chat API, regions as words."""
from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ...model.config import PromptConfig
from ...model.prompt import PromptError
from ...model.region_words import (
    DESCRIBE,
    END_OF_TEXT,
    IMAGE_MARKS,
    PREAMBLE,
    SEPARATOR,
    VIDEO,
    BoxReferences,
)
from ...model.templates import TEMPLATES
from ..texts import Text
from .options import ServerOptions

# Nobody here counts a server's tokens: of a longer conversation, the oldest rounds are left out.
_MOST_CHARACTERS = 16_000


@dataclass(eq=False, kw_only=True)
class RemoteText(Text[str]):
    """One text that a server writes. What was generated are pieces of text.

    Attributes:
        messages: What the server is asked.
        sampling: How tokens are chosen, in the API's fields.
        sent: The words in the messages.
    """

    messages: list[dict[str, Any]]
    sampling: dict[str, float]
    sent: tuple[str, ...] = ()


class RemotePrompts(BoxReferences):
    """Prompts for a model of which nothing is known but that it reads boxes in words.

    Args:
        config: The wording.
        boxes: Of a frame's regions in units of the image, float32 [N, 4].
    """

    def __init__(self, config: PromptConfig, boxes: np.ndarray | None = None):
        self.config = config
        # A server makes one text of the messages: whoever could write these could write the other side's turns.
        self.special = [*IMAGE_MARKS, VIDEO, END_OF_TEXT,
                        *(token for form in TEMPLATES.values() for token in form.tokens if token.startswith("<"))]
        if boxes is not None:
            self.boxes = boxes

    def messages(self, picture: str, rounds: Sequence[tuple[str, str | None]], points: frozenset[int],
                 ) -> tuple[list[dict[str, Any]], tuple[str, ...], int]:
        """What a server is asked: the picture first, then all regions, then the rounds.

        Two conversations about a frame begin alike, up to their first question.

        Args:
            picture: As a data URL.
            rounds: (question, answer) pairs, oldest first, regions as `<regionK>`; the last answer is open.
            points: Numbers, from 1, of the regions that are points.

        Returns:
            The messages, the words in them, and how many of the oldest rounds were left out.

        Raises:
            PromptError: The last question alone is too long, or refers to a region that is not there.
        """
        regions = len(self.boxes)
        dropped, room = 0, _MOST_CHARACTERS - len(rounds[-1][0])
        for place, (question, answer) in reversed(list(enumerate(rounds[:-1]))):
            room -= len(question) + len(answer or "")
            if room < 0:
                dropped = place + 1
                break
        if len(rounds[-1][0]) > _MOST_CHARACTERS:
            raise PromptError(f"the question has {len(rounds[-1][0])} characters, expected at most {_MOST_CHARACTERS}")
        mentioned, asked, words = set[int](), list[dict[str, Any]](), list[str]()
        for number, (question, answer) in enumerate(rounds[dropped:]):
            text = self._asked(question)
            if number == 0:
                text = self._list_of_regions(regions) + text
            text = self._resolve(text, regions, points, [], mentioned)
            words.append(text)
            shown = [{"type": "image_url", "image_url": {"url": picture}}] if number == 0 else []
            asked.append({"role": "user", "content": [*shown, {"type": "text", "text": text}]})
            if answer is not None:
                asked.append({"role": "assistant", "content": answer})
                words.append(answer)
        return asked, tuple(words), dropped


def wording() -> PromptConfig:
    """As Qwen3-VL is asked; whoever reads boxes on a grid from 0 to 1000 understands it."""
    return PromptConfig(template="chatml", preamble=PREAMBLE, separator=SEPARATOR, describe=DESCRIBE)


def data_url(pixels: np.ndarray, options: ServerOptions) -> str:
    """A picture as a data URL.

    Args:
        pixels: uint8 RGB [H, W, 3].
        options: Its format.
    """
    file = io.BytesIO()
    how = {"quality": options.jpeg_quality} if options.picture == "jpeg" else {"compress_level": 1}
    Image.fromarray(pixels).save(file, options.picture, **how)
    return f"data:image/{options.picture};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def trial(options: ServerOptions) -> RemoteText:
    """The least that a server has to be able to write: a word about a small grey picture."""
    picture, question = data_url(np.full((64, 64, 3), 127, np.uint8), options), "What is this?"
    return RemoteText(max_new_tokens=1, sampling={"temperature": 0.0}, messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]}])
