"""The language stage: conversations over a frame's vision output, decoded together on one language model."""
from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from collections.abc import Sequence as Several
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..configuration import setting
from ..model.checkpoint import LoadedModel, LoadedQwen3VL
from ..model.prompt import ChatPrompts, PromptError
from ..model.qwen3_vl import AnyVisionOutput, PictureOutput
from .adapter_folder import Adapter, read_adapter
from .generator import Generator
from .kv_cache import Prompt
from .request import Sampling, Sequence
from .text_stream import TextStream
from .types import Status


@dataclass(frozen=True)
class DecodingConfig(Sampling):
    """How the language stage decodes."""

    description_rows: int = setting(16, "Descriptions that are decoded at the same time.", at_least=1)
    question_rows: int = setting(4, "Answers that are decoded at the same time.", at_least=1)
    draft_tokens: int = setting(8, "Most tokens of an earlier description that are tried at once; 0: none.", at_least=0)
    cache_mib: int = setting(-1, "Most memory for the caches of frames and conversations; -1: what 40 of them can "
                                 "fill, and at most an eighth of the memory that is free.", at_least=-1, unit="MiB")
    stop_texts: tuple[str, ...] = setting((), "A text ends before the first of these, beside the model's own.")
    compile: bool = setting(False, "On a GPU, compile the decode step with PyTorch; takes minutes at the start.")
    onnxruntime: bool = setting(True, "On a CPU, a small model takes its steps in ONNX Runtime where it can.")


# (question, answer) in the model's words, oldest first; the last answer is open
Rounds = Several[tuple[str, str | None]]


class LanguageStage:
    """Makes prompts of conversations, and texts of what the generator writes. Not thread-safe: one worker owns it.

    Attributes:
        prompts: Builds the prompts.
        generator: Writes the texts.
    """

    def __init__(self, loaded: LoadedModel | LoadedQwen3VL, config: DecodingConfig):
        self.prompts: ChatPrompts = loaded.prompts
        self._model: Any = loaded.model
        self._tokenizer = loaded.tokenizer
        self._sampling = config
        end = self._tokenizer.encode(self.prompts.stop_text, add_special_tokens=False)
        # A template ends an answer with a token of its own or with plain text, which is looked for in what was written.
        self._stop_texts = config.stop_texts if len(end) == 1 else (self.prompts.stop_text, *config.stop_texts)
        stop_ids = {self._tokenizer.eos_token_id, *self.prompts.ends, *(end if len(end) == 1 else ())} - {None}
        limits = [self.prompts.config.context, getattr(self._model.language.config, "max_position_embeddings", None)]
        self.generator = Generator(self._model.language, stop_ids=frozenset(stop_ids),
                                   suppress_tokens=self.prompts.never,
                                   context=min(filter(None, limits)),
                                   max_rows=config.description_rows + config.question_rows,
                                   priority_rows=config.question_rows, draft_tokens=config.draft_tokens,
                                   cache_bytes=None if config.cache_mib < 0 else config.cache_mib << 20,
                                   compiler="inductor" if config.compile else "",
                                   onnxruntime=config.onnxruntime)

    def read_adapter(self, folder: Path) -> Adapter:
        """Read a LoRA folder for the language model; may be called from any thread.

        Raises:
            CheckpointError: As `adapter_folder.read_adapter`.
        """
        weight = self._model.language.get_input_embeddings().weight
        adapter = read_adapter(folder, self._model.language.base_model, weight.dtype, weight.device)
        self.generator.adapted.prepare()
        return adapter

    def sequence(self, rounds: Rounds, vision: AnyVisionOutput, vision_key: Hashable, max_new_tokens: int, *,
                 adapter: Adapter | None = None, boxes: np.ndarray | None = None,
                 region_keys: np.ndarray | None = None, sampling: Sampling | None = None,
                 points: Collection[int] = (), list_regions: bool = True, draft: tuple[int, ...] = (),
                 cache_key: Hashable | None = None, render: Callable[[str], str] = str,
                 hold: Callable[[str], int] = lambda text: 0,
                 on_text: Callable[[str], None] | None = None) -> Sequence:
        """Prepare a conversation whose last answer is to be written.

        The oldest rounds are left out where prompt and answer would not fit the context together.

        Args:
            rounds: The conversation, regions as `<regionK>`.
            vision: Of one frame, image tokens [1, T, D] and region embeddings [1, N, K, D].
            vision_key: Names the vision output.
            max_new_tokens: Most tokens of the answer.
            adapter: What changes the language model for it; None: nothing.
            boxes: Of the regions, in units of the image, float32 [N, 4]; for prompts that say them in words.
            region_keys: Names the embeddings of each region, int64 [N]; None where they all belong to that output.
            sampling: How tokens are chosen; None: as configured.
            points: Places, from 1, of the regions that are points.
            list_regions: Whether all regions are introduced before the first question.
            draft: Token ids of an earlier text, tried ahead.
            cache_key: Name under which the conversation is kept for its next round.
            render: The model's text → the reader's; see TextStream.
            hold: How many last characters of a model's text must wait; see TextStream.
            on_text: Receives the reader's text as it grows.

        Raises:
            PromptError: The last question alone does not fit, or speaks of a region that is not there.
        """
        regions, prompts = vision.region_embeddings.shape[1], self.prompts.of_frame(vision.image_tokens.shape[1], boxes)
        unusable = prompts.config.context - self.generator.context
        try:
            encoded = prompts.encode(rounds, regions, list_regions=list_regions, points=points,
                                     reserve=unusable + max_new_tokens)
            dropped = encoded.dropped_rounds
        except PromptError:  # the question alone may leave room for a part of the answer
            encoded = prompts.encode(rounds[-1:], regions, list_regions=list_regions, points=points,
                                     reserve=unusable + 1)
            dropped = len(rounds) - 1
        index = np.asarray(encoded.region_index, np.int64)
        size = prompts.embeddings
        keys = index if region_keys is None or not regions else np.where(
            index < 0, -1, region_keys[index // size] * size + index % size)
        prompt = Prompt.of(encoded.input_ids, keys, vision_key, adapter)
        picture = None
        if isinstance(vision, PictureOutput):
            picture = vision.pictures(prompt.ids == prompts.image_patch_id, index)

        def embed() -> torch.Tensor:
            device = self._model.device
            return self._model.embed(torch.from_numpy(prompt.ids).to(device).unsqueeze(0), vision,
                                     torch.from_numpy(index).to(device).unsqueeze(0))[0]

        return Sequence(prompt, embed, sampling or self._sampling, draft, cache_key, picture,
                        max_new_tokens=max_new_tokens, dropped_rounds=dropped,
                        stream=TextStream(self.text, self._stop_texts, render, hold), on_text=on_text)

    def answers(self, conversations: Several[Rounds], vision: AnyVisionOutput, max_new_tokens: int, *,
                adapter: Adapter | None = None, boxes: np.ndarray | None = None, points: Collection[int] = (),
                list_regions: bool = True) -> list[str]:
        """Write the greedy answers to conversations about one vision output, decoded together.

        Args:
            conversations: Each with its last answer open, regions as `<regionK>`.
            vision: Of one frame, image tokens [1, T, D] and region embeddings [1, N, K, D].
            max_new_tokens: Most tokens of an answer.
            adapter: As `sequence` takes it.
            boxes: As `sequence` takes them.
            points: Places, from 1, of the regions that are points.
            list_regions: Whether all regions are introduced before the first question.

        Returns:
            The answers in the model's words, regions as ``region3``.

        Raises:
            PromptError: As `sequence`.
            RuntimeError: A text failed, for example because the numbers were not finite.
        """
        vision = vision.to(self._model.device, self._model.dtype)
        key = object()  # a vision output that nobody else knows
        sequences = [self.sequence(rounds, vision, key, max_new_tokens, adapter=adapter, sampling=Sampling(),
                                   boxes=boxes, points=points, list_regions=list_regions) for rounds in conversations]
        self.generator.run(sequences)
        self.generator.prefixes.drop(("frame", key))
        for sequence in sequences:
            if sequence.status is not Status.OK:
                raise RuntimeError(f"the language model failed: {sequence.error}")
        return [sequence.stream.raw.strip() for sequence in sequences if sequence.stream is not None]

    def text(self, ids: Several[int]) -> str:
        """The model's text of generated ids, without special tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
