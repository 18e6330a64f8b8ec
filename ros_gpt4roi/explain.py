"""What the model was given and what it wrote, token by token: for a person who looks for the reason of an answer."""
from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .model.prompt import ChatPrompts
from .model.qwen3_vl import AnyVisionOutput, PictureOutput
from .runtime.pipeline import Pipeline
from .runtime.request import EncodedFrame, Sequence
from .runtime.vision_stage import VisionStage

#: What can be blanked of the vision stage's output.
BLANKS = ("image", "regions")


def blank(output: AnyVisionOutput, part: str) -> AnyVisionOutput:
    """The output of a vision stage with one part of it, of `BLANKS`, set to zero."""
    if part == "regions":
        output = output._replace(region_embeddings=torch.zeros_like(output.region_embeddings))
        if isinstance(output, PictureOutput) and output.replay is not None:
            output = output._replace(replay=torch.zeros_like(output.replay))
        return output
    output = output._replace(image_tokens=torch.zeros_like(output.image_tokens))
    if isinstance(output, PictureOutput) and output.deepstack is not None:
        output = output._replace(deepstack=torch.zeros_like(output.deepstack))
    return output


class BlankedVision(VisionStage):
    """A vision stage of whose output one part is zero: what is said without having seen it.

    Args:
        stage: The stage that runs.
        part: Of `BLANKS`.
    """

    def __init__(self, stage: VisionStage, part: str):
        self._stage, self._part = stage, part
        self.backend, self.reason = stage.backend, f"{stage.reason}; {part} blanked"
        self.counters = stage.counters

    def encode(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> AnyVisionOutput:
        """As `VisionStage.encode`."""
        return blank(self._stage.encode(images, boxes, masks), self._part)

    def see_more(self, seen: PictureOutput, boxes: np.ndarray, masks: np.ndarray | None = None) -> PictureOutput:
        """As `VisionStage.see_more`."""
        found = blank(self._stage.see_more(seen, boxes, masks), self._part)
        assert isinstance(found, PictureOutput)
        return found


def components(pipeline: Pipeline) -> dict[str, str]:
    """What runs each part of the model, in words.

    Args:
        pipeline: A pipeline that was opened.

    Returns:
        Device, vision stage, language model and its output layer, each with its number format where it has one.
    """
    generator, vision = pipeline.language.generator, pipeline.encoder.vision
    return {
        "device": str(generator.device),
        "vision stage": f"{vision.backend} ({vision.reason})",
        "language model": f"{pipeline.config.language_format}, run by {_runtime(generator.body)}",
        "output layer": f"run by {_runtime(generator.head)}",
        "context": f"{generator.context} tokens",
    }


def _runtime(part: object) -> str:
    # By name: where it is not used, ONNX Runtime may not be installed.
    return "ONNX Runtime" if type(part).__name__.startswith("Onnx") else "PyTorch"


def prompt_text(prompts: ChatPrompts, sequence: Sequence, encoded: EncodedFrame) -> str:
    """The prompt as text, with what was spliced in between double angle brackets.

    Args:
        prompts: The model's.
        sequence: The text that was generated on this prompt.
        encoded: The frame that the prompt is about.

    Returns:
        The text; image tokens and region embeddings stand as `⟪49 image tokens⟫` and `⟪embedding of region 2, norm
        1.4⟫`.
    """
    vision = encoded.vision
    replayed = vision.replay if isinstance(vision, PictureOutput) else None
    spliced = vision.region_embeddings[0] if replayed is None else replayed[0]
    norms, per_region = spliced.flatten(0, 1).float().norm(dim=-1).tolist(), spliced.shape[1]
    parts: list[str] = []
    tokens = zip(sequence.prompt.ids.tolist(), sequence.prompt.region_index.tolist())
    for (index, is_image), run in groupby(tokens, key=lambda token: (token[1], token[0] == prompts.image_patch_id)):
        ids = [token for token, _ in run]
        if index >= 0:
            region = encoded.shown[index // per_region]
            parts.append(f"⟪embedding of region {region.id}, norm {norms[index]:.3g}⟫")
        elif is_image:
            parts.append(f"⟪{len(ids)} image tokens⟫")
        else:
            parts.append(_decode(prompts.tokenizer, ids))
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
    return [{"text": _decode(tokenizer, [choice.token]), "probability": choice.probability,
             "alternatives": [(_decode(tokenizer, [token]), probability) for token, probability in choice.likeliest]}
            for choice in sequence.choices]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
