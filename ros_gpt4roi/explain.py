"""What the model was given and what it wrote, token by token: for a person who looks for the reason of an answer."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .model.gpt4roi import VisionOutput
from .model.prompt import IMAGE_PATCH
from .runtime.pipeline import Pipeline
from .runtime.request import EncodedFrame, Sequence
from .runtime.vision_stage import VisionStage

#: What can be blanked → the part of the vision stage's output.
BLANKS = {"image": "image_tokens", "regions": "region_embeddings"}


class BlankedVision(VisionStage):
    """A vision stage of whose output one part is zero: what is said without having seen it.

    Args:
        stage: The stage that runs.
        part: Of `BLANKS`.
    """

    def __init__(self, stage: VisionStage, part: str):
        self._stage, self._part = stage, BLANKS[part]
        self.backend, self.reason = stage.backend, f"{stage.reason}; {part} blanked"

    def encode(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> VisionOutput:
        """As `VisionStage.encode`."""
        output = self._stage.encode(images, boxes, masks)
        return output._replace(**{self._part: torch.zeros_like(getattr(output, self._part))})


def components(pipeline: Pipeline) -> dict[str, str]:
    """What runs each part of the model, in words.

    Args:
        pipeline: A pipeline that was opened.

    Returns:
        Device, vision stage, language model and its output layer, each with its number format where it has one.
    """
    generator, vision = pipeline.language.generator, pipeline.vision
    return {
        "device": str(generator.device),
        "vision stage": f"{vision.backend} ({vision.reason})",
        "language model": f"{pipeline.config.language_format}, steps by {type(generator.body).__name__}",
        "output layer": type(generator.head).__name__,
        "context": f"{generator.context} tokens",
    }


def prompt_text(tokenizer: PreTrainedTokenizerBase, sequence: Sequence, encoded: EncodedFrame) -> str:
    """The prompt as text, with what was spliced in between double angle brackets.

    Args:
        tokenizer: The model's.
        sequence: The text that was generated on this prompt.
        encoded: The frame that the prompt is about.

    Returns:
        The text; image tokens and region embeddings stand as `⟪49 image tokens⟫` and `⟪embedding of region 2, norm
        1.4⟫`.
    """
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_PATCH)
    norms = encoded.vision.region_embeddings[0].flatten(0, 1).float().norm(dim=-1).tolist()
    per_region = encoded.vision.region_embeddings.shape[2]
    parts: list[str] = []
    pending: list[int] = []
    image_tokens = 0

    def flush() -> None:
        nonlocal image_tokens
        if pending:
            parts.append(tokenizer.decode(pending, skip_special_tokens=False, clean_up_tokenization_spaces=False))
            pending.clear()
        if image_tokens:
            parts.append(f"⟪{image_tokens} image tokens⟫")
            image_tokens = 0

    for token, index in zip(sequence.prompt.ids.tolist(), sequence.prompt.region_index.tolist()):
        is_image = token == image_id
        if index >= 0 or (pending and is_image) or (image_tokens and not is_image):
            flush()
        if index >= 0:
            region = encoded.shown[index // per_region]
            parts.append(f"⟪embedding of region {region.id}, norm {norms[index]:.3g}⟫")
        elif is_image:
            image_tokens += 1
        else:
            pending.append(token)
    flush()
    return "".join(parts)


def token_table(tokenizer: PreTrainedTokenizerBase, sequence: Sequence) -> list[dict[str, Any]]:
    """Each generated token with its probability and the likeliest tokens at its place.

    Args:
        tokenizer: The model's.
        sequence: A text that was generated with `top_k` above 0.

    Returns:
        For each token its `text`, `probability` and `alternatives`, a list of (text, probability), the likeliest first.
        The last entry is the token that ended the text, where one did.
    """
    def shown(token: int) -> str:
        return tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    return [{"text": shown(choice.token), "probability": choice.probability,
             "alternatives": [(shown(token), probability) for token, probability in choice.likeliest]}
            for choice in sequence.choices]
