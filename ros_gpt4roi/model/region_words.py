"""Prompts that say in words where a region is: its box on a grid over the picture, as Qwen3-VL reads and writes it."""

from __future__ import annotations

import copy
import json

import numpy as np
from transformers import PreTrainedTokenizerBase

from .config import PromptConfig
from .prompt import ChatPrompts

GRID = 1000  # steps over each side of the picture
# Tokens of Qwen's vocabulary: around and for image tokens, for a video's, and behind a text that is no conversation.
IMAGE_MARKS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_VIDEO, _END_OF_TEXT = "<|video_pad|>", "<|endoftext|>"

# Prompt forms. Boxes are named as in the answers of Qwen3-VL's cookbook on grounding in pictures
# (github.com/QwenLM/Qwen3-VL, cookbooks/2d_grounding.ipynb) and in its data format for training
# (qwen-vl-finetune there): JSON with `bbox_2d` or `point_2d` and `label`, whole numbers from 0 to 1000.
IMAGE_TEXT = "{image}"
PREAMBLE = "Regions of this picture, by their boxes:\n```json\n[\n{regions}\n]\n```\n"
SEPARATOR = ",\n"
DESCRIBE = "Describe {region} in one short sentence."


class RegionWordPrompts(ChatPrompts):
    """Prompts in which a region is a box in words.

    Args:
        tokenizer: A fast tokenizer with Qwen's special tokens.
        config: The model's wording.

    Raises:
        PromptError: The tokenizer lacks one of these tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig):
        super().__init__(tokenizer, config, IMAGE_MARKS, IMAGE_MARKS, 0)
        vocabulary = tokenizer.get_vocab()
        self.never += [vocabulary[token] for token in (_VIDEO,) if token in vocabulary]
        self.ends = tuple(vocabulary[token] for token in (_END_OF_TEXT,) if token in vocabulary)
        self._boxes = np.empty((0, 4), np.float32)

    def of_frame(self, image_tokens: int, boxes: np.ndarray) -> RegionWordPrompts:
        """The same for one frame.

        Args:
            image_tokens: How many it has.
            boxes: Its regions' boxes in units of the image, float32 [N, 4].
        """
        bound = copy.copy(self)
        bound.image_tokens, bound._boxes = image_tokens, boxes
        return bound

    def _name(self, number: int) -> str:
        return f"region {number}"

    def _listed(self, number: int) -> str:
        return json.dumps({"bbox_2d": self._on_grid(number), "label": self._name(number)})

    def _shown(self, number: int, is_point: bool, regions: list[int]) -> str:
        box = self._on_grid(number)
        centre = [(low + high) // 2 for low, high in zip(box[:2], box[2:])]
        return json.dumps({"point_2d": centre} if is_point else {"bbox_2d": box})

    def _on_grid(self, number: int) -> list[int]:
        """Whole numbers x1 y1 x2 y2 of the part of a region's box that is in the picture."""
        return [round(float(place) * GRID) for place in self._boxes[number - 1].clip(0, 1)]
