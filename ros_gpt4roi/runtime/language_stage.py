"""The language stage: conversations over a frame's vision output, decoded together on one language model."""
from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence as Several
from dataclasses import dataclass

import torch

from ..configuration import setting
from ..model.checkpoint import LoadedModel
from ..model.gpt4roi import VisionOutput
from ..model.prompt import IMAGE_END, IMAGE_PATCH, IMAGE_START
from .decoder import Decoder, Finish, Sampling, Sequence
from .kv_cache import Prompt
from .text_stream import TextStream


@dataclass(frozen=True)
class DecodingConfig(Sampling):
    """How the language stage decodes."""

    description_rows: int = setting(16, "Descriptions that are decoded at the same time.", at_least=1)
    question_rows: int = setting(4, "Answers that are decoded at the same time.", at_least=1)
    draft_tokens: int = setting(8, "Most tokens of an earlier description that are tried at once; 0: none.", at_least=0)
    cache_mib: int = setting(1024, "Most memory for the caches of frames and conversations.", at_least=0, unit="MiB")
    stop_texts: tuple[str, ...] = setting((), "A text ends before the first of these, beside the model's own.")
    compile: bool = setting(False, "On a GPU, compile the decode step with PyTorch; takes minutes at the start.")
    onnxruntime: bool = setting(True, "On a CPU, a small model takes its steps in ONNX Runtime where it can.")


class LanguageStage:
    """Prompts in, texts out. Not thread-safe: one worker owns it."""

    def __init__(self, loaded: LoadedModel, config: DecodingConfig):
        self.prompts, self._model, self._tokenizer = loaded.prompts, loaded.model, loaded.tokenizer
        self._sampling = config
        end = self._tokenizer.encode(self.prompts.stop_text, add_special_tokens=False)
        # A template ends an answer with a token of its own or with plain text, which is looked for in what was written.
        self._stop_texts = config.stop_texts if len(end) == 1 else (self.prompts.stop_text, *config.stop_texts)
        stop_ids = {self._tokenizer.eos_token_id, *(end if len(end) == 1 else ())} - {None}
        limits = [self.prompts.config.context, getattr(self._model.language.config, "max_position_embeddings", None)]
        images = self._tokenizer.convert_tokens_to_ids([IMAGE_PATCH, IMAGE_START, IMAGE_END])
        self.decoder = Decoder(self._model.language, stop_ids=frozenset(stop_ids), never_ids=images,
                               context=min(filter(None, limits)),
                               max_rows=config.description_rows + config.question_rows,
                               urgent_rows=config.question_rows, draft_tokens=config.draft_tokens,
                               cache_bytes=config.cache_mib << 20, compiler="inductor" if config.compile else "",
                               onnxruntime=config.onnxruntime)

    def sequence(self, rounds: Several[tuple[str, str | None]], vision: VisionOutput, vision_key: Hashable,
                 max_new_tokens: int, *, points: Collection[int] = (), draft: tuple[int, ...] = (),
                 keep_as: Hashable | None = None) -> Sequence:
        """A conversation whose last answer is to be written.

        rounds: in the model's words (<regionK>). vision: of one frame, [1, T, D] and [1, N, K, D]; vision_key names it.
        points: numbers, from 1, of the regions that are points. Raises PromptError where the conversation does not fit.
        """
        regions = vision.region_embeddings.shape[1]
        encoded = self.prompts.encode(rounds, regions, list_regions=True, points=points)
        prompt = Prompt.of(encoded.input_ids, encoded.region_index, vision_key)

        def embed() -> torch.Tensor:
            device = self._model.device
            return self._model.embed(torch.from_numpy(prompt.ids).to(device).unsqueeze(0), vision,
                                     torch.from_numpy(prompt.region_index).to(device).unsqueeze(0))[0]

        return Sequence(prompt, embed, max_new_tokens, self._sampling, draft, keep_as)

    def add(self, sequences: list[Sequence], urgent: bool = False) -> None:
        """Raises ValueError where a prompt fills the context."""
        self.decoder.add(sequences, urgent)

    def step(self) -> None:
        self.decoder.step()

    def warm_up(self) -> None:
        """Prepare what steps over a cache of the present size need; for after a first full batch."""
        self.decoder.warm_up()

    def text(self, ids: Several[int]) -> str:
        """The model's text of generated ids, without special tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def stream(self, **how) -> TextStream:
        """A stream of one sequence's text; `how` goes to TextStream."""
        return TextStream(self.text, self._stop_texts, **how)

    def reset(self) -> None:
        self.decoder.reset()


__all__ = ["DecodingConfig", "Finish", "LanguageStage", "Sequence"]
