"""Prompts that say in words where a region is: its box on a grid over the picture, as Qwen3-VL reads and writes it."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
from transformers import PreTrainedTokenizerBase

from .config import PromptConfig
from .prompt import ChatPrompts, References

GRID = 1000  # steps over each side of the picture
# Tokens of Qwen's vocabulary: around and for image tokens, for a video's, and behind a text that is no conversation.
IMAGE_MARKS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
VIDEO, END_OF_TEXT = "<|video_pad|>", "<|endoftext|>"

# Prompt forms. Boxes are named as in the answers of Qwen3-VL's cookbook on grounding in pictures
# (github.com/QwenLM/Qwen3-VL, cookbooks/2d_grounding.ipynb) and in its data format for training
# (qwen-vl-finetune there): JSON with `bbox_2d` or `point_2d` and `label`, whole numbers from 0 to 1000.
# It answers with a list of such objects, mostly in a code block (```json), or with one. Two corners in brackets,
# (120,80),(410,620), are how Qwen2-VL wrote a box (arXiv 2409.12191).
BOX_KEY, POINT_KEY, LABEL_KEY = "bbox_2d", "point_2d", "label"
IMAGE_TEXT = "{image}"
PREAMBLE = "Regions of this picture, by their boxes:\n```json\n[\n{regions}\n]\n```\n"
SEPARATOR = ",\n"
# With what is replayed of regions behind their words: no list of JSON objects, which has no place for it.
REPLAY_PREAMBLE = "Regions of this picture, each with its box and what is in it:\n{regions}\n"
REPLAY_SEPARATOR = "\n"
#: A token that what is replayed of a region takes the place of.
REGION_PAD = "<|region_pad|>"
DESCRIBE = "Describe {region} in one short sentence."
# What asks for boxes and points, as in the prompts that Qwen3-VL was evaluated with (arXiv 2511.21631, appendix B).
REPORT_BOXES = "Report bbox coordinates in JSON format."
REPORT_POINTS = "Output the point coordinates in JSON format."
_FIND = re.compile(r"\W*(?:(?:please|can you|could you|would you|now|and|then)\W+)*(?:(?P<point>point (?:to|at|out))|"
                   r"find|locate|detect|spot|look for|search for|show me)\b", re.IGNORECASE)


class BoxReferences(References):
    """A region is a box in words.

    Attributes:
        boxes: Of the frame's regions in units of the image, float32 [N, 4].
    """

    boxes = np.empty((0, 4), np.float32)

    def _asked(self, question: str) -> str:
        """A question that asks to find or to point at something also asks for its place."""
        if (asked := _FIND.match(question)) is None or BOX_KEY in question or POINT_KEY in question:
            return question
        end = "" if question.rstrip()[-1:] in (*".?!", "") else "."
        return f"{question.rstrip()}{end} {REPORT_POINTS if asked['point'] else REPORT_BOXES}"

    def _name(self, number: int) -> str:
        return f"region {number}"

    def _listed(self, number: int) -> str:
        return json.dumps({BOX_KEY: self._on_grid(number), LABEL_KEY: self._name(number)})

    def _shown(self, number: int, is_point: bool, regions: list[int]) -> str:
        box = self._on_grid(number)
        centre = [(low + high) // 2 for low, high in zip(box[:2], box[2:])]
        return json.dumps({POINT_KEY: centre} if is_point else {BOX_KEY: box})

    def _on_grid(self, number: int) -> list[int]:
        """Whole numbers x1 y1 x2 y2 of the part of a region's box that is in the picture."""
        return [round(float(place) * GRID) for place in self.boxes[number - 1].clip(0, 1)]


class RegionWordPrompts(BoxReferences, ChatPrompts):
    """Prompts in which a region is a box in words.

    Args:
        tokenizer: A fast tokenizer with Qwen's special tokens.
        config: The model's wording.
        markers: Texts that the tokenizer must know as one token each.

    Raises:
        PromptError: The tokenizer lacks one of these tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig,
                 markers: tuple[str, ...] = IMAGE_MARKS):
        super().__init__(tokenizer, config, markers, IMAGE_MARKS, 0)
        vocabulary = tokenizer.get_vocab()
        self.never += [vocabulary[token] for token in (VIDEO,) if token in vocabulary]
        self.ends = tuple(vocabulary[token] for token in (END_OF_TEXT,) if token in vocabulary)

    def of_frame(self, image_tokens: int, boxes: np.ndarray | None) -> ChatPrompts:
        """As `ChatPrompts.of_frame`."""
        assert boxes is not None  # as frames have them
        bound = copy.copy(self)
        bound.image_tokens, bound.boxes = image_tokens, boxes
        return bound


class RegionReplayPrompts(RegionWordPrompts):
    """Prompts in which vectors of what is in a region's box stand behind its words.

    Args:
        tokenizer: As of `RegionWordPrompts`, with `REGION_PAD` beside.
        config: The model's wording.
        embeddings: Vectors a region.

    Raises:
        PromptError: The tokenizer lacks one of these tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig, embeddings: int):
        super().__init__(tokenizer, config, (*IMAGE_MARKS, REGION_PAD))
        self.embeddings, self.region_ids = embeddings, (tokenizer.get_vocab()[REGION_PAD],)
        self.never += self.region_ids

    def _listed(self, number: int) -> str:
        return f"<region{number}>"

    def _shown(self, number: int, is_point: bool, regions: list[int]) -> str:
        first = (number - 1) * self.embeddings
        regions.extend(range(first, first + self.embeddings))
        begin, _, end = IMAGE_MARKS
        return super()._shown(number, is_point, regions) + begin + REGION_PAD * self.embeddings + end
