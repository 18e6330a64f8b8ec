"""(frame, boxes, question) → text, by a model that runs on a server.

Here remain: the checks of frames, boxes and questions, the prompt, what an answer asserts and finds, and the reuse of
descriptions. The picture goes to the server with every text, at the pixel budget of a local model.
"""
from __future__ import annotations

import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from ...configuration import ConfigError
from ...model.preprocess import check_frame
from ...model.prompt import PromptError
from ...model.qwen3_vl import PictureOutput, Qwen3VLConfig, fit_frame, region_looks
from ...printable import printable
from ..adapters import Adapters
from ..device import Device
from ..language_stage import Rounds
from ..pipeline import Pipeline
from ..pipeline_config import PipelineConfig
from ..request import AnswerReader, DescriptionRequest, EncodedFrame, Question, Refused
from ..text_stream import TextStream
from ..types import Status
from ..vision_stage import VisionStage
from .chunks import Piece, ServerError
from .messages import RemotePrompts, RemoteText, data_url, wording
from .options import key_of_environment
from .server import Server

_WAIT_S = 0.02  # for what a server sends, before other requests have their turn
_PICTURES_KEPT = 8  # as the frame encoder keeps frames
_NAME_SHOWN = 200  # characters of a model's name, which is the server's
_CELLS = 4  # of an image token's place, each way: what regions look like is compared by their mean colours


class PictureStage(VisionStage):
    """Sees pictures without a network: as much as tells whether a region has changed."""

    def __init__(self, config: Qwen3VLConfig):
        self._side = config.preprocess.token_side
        self.backend, self.precision, self.reason = "none", "uint8", "the server has it"
        self.counters = {}

    def encode(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> PictureOutput:
        """See `VisionStage.encode`. Image tokens are the mean colours of an image token's place, -0.5 to 0.5."""
        _, height, width, _ = images.shape
        rows, columns, cell = height // self._side, width // self._side, self._side // _CELLS
        means = torch.from_numpy(images[0]).float().div(255).sub(0.5)
        means = means.reshape(rows, _CELLS, cell, columns, _CELLS, cell, 3).mean((2, 5))
        tokens = means.permute(0, 2, 1, 3, 4).reshape(1, rows * columns, -1)
        looks = region_looks(tokens, (rows, columns), torch.from_numpy(boxes)) if boxes.shape[1] else \
            tokens.new_zeros(1, 0, 1, tokens.shape[2])
        return PictureOutput(tokens, looks, None, (rows, columns))

    def see_more(self, seen: PictureOutput, boxes: np.ndarray, masks: np.ndarray | None = None) -> PictureOutput:
        """See `VisionStage.see_more`."""
        return seen._replace(region_embeddings=region_looks(seen.image_tokens, seen.grid, torch.from_numpy(boxes)))


class RemotePipeline(Pipeline):
    """See the module, and `Pipeline`.

    Args:
        config: `remote` is the server's address, and `server` how it is used.

    Raises:
        ConfigError: The key in the environment is none.
    """

    def __init__(self, config: PipelineConfig):
        model = Qwen3VLConfig(prompt=wording()).within(config.vision.max_pixels)
        self._begin_with(config, model, PictureStage(model))
        self.adapters = Adapters(_read_adapter)
        self.prompts = RemotePrompts(model.prompt)
        self.server = Server(config.remote, config.server, key_of_environment(),
                             (config.decoding.question_rows, config.decoding.description_rows))
        weakref.finalize(self, self.server.close)  # whoever forgets a pipeline forgets its connections
        self.device = Device("cpu", f"the model runs at {self.server.host}")
        self._pictures: OrderedDict[int, str] = OrderedDict()  # data URLs, by what names the vision output
        self._texts: set[RemoteText] = set()  # that the server writes
        self._sampling = {"temperature": config.decoding.temperature} | (
            {"top_p": config.decoding.top_p, "seed": config.decoding.seed} if config.decoding.temperature else {})

    @classmethod
    def connect(cls, config: PipelineConfig, insist: bool = True) -> RemotePipeline:
        """Find the server and its model. One that is gone is looked for from now on.

        Args:
            config: As of the class.
            insist: Raise where the server is there and does not serve; else it is looked for as one that is gone.

        Raises:
            ConfigError: The server is there and does not serve: a wrong key or model, a server of another kind.
        """
        pipeline = cls(config)
        try:
            pipeline.server.greet(insist)
        except ServerError as error:
            pipeline.close()
            raise ConfigError(f"remote is {config.remote!r}: {error}") from error
        return pipeline

    @property
    def trouble(self) -> str:
        """Why the server cannot be used; empty while it can."""
        return self.server.gone

    def placement(self) -> dict[str, str]:
        """What runs where, and why, in words for people."""
        return {"device": self.device.reason, "vision stage": f"at {self.server.host}",
                "language model": f"{self.server.model or 'not known yet'} at {self.server.host}"}

    # --- requests ------------------------------------------------------------------------------------------------

    def begin(self, request: Question | DescriptionRequest) -> None:
        """See `Pipeline.begin`. Without the server, nothing is begun.

        Raises:
            Refused: As there, or the server is gone.
        """
        if self.server.gone:
            raise Refused(Status.FAILED, self.server.gone)
        if isinstance(request, DescriptionRequest) and request.embeddings_only:
            raise Refused(Status.INVALID, "a model that runs on a server gives no embeddings of regions")
        self._name_version()
        super().begin(request)

    def _name_version(self) -> None:
        self.version = f"{printable(self.server.model, _NAME_SHOWN)}@{self.server.host}"

    def _advance(self) -> None:
        self._name_version()  # the server may have another model since it was asked
        for text in [text for text in self._texts if text.status is not None]:
            self._leave(text)
        grown: dict[RemoteText, None] = {}
        for text, news in self.server.news(_WAIT_S if self._texts else 0.0):
            if isinstance(news, ServerError):
                text.end(news.status, str(news))
                self._texts.discard(text)
            elif text.status is None:
                self._take(text, news)
                grown[text] = None
        for text in grown:  # once, however many pieces have come: all of a text is read again
            if text.status is None:
                text.read()
                if text.status is not None:  # by a stop text
                    self._leave(text)

    def _take(self, text: RemoteText, piece: Piece) -> None:
        if piece.text:
            text.generated.append(piece.text)
        text.probabilities += piece.probabilities
        if piece.ended:  # there is nothing to stop
            if piece.filtered:  # what is there is not what the model says
                text.end(Status.FAILED, f"the content filter of the server at {self.server.host} cut the text")
            text.end(Status.OK, cut=piece.cut)
            self._texts.discard(text)

    def _leave(self, text: RemoteText) -> None:
        """Let the server stop a text that is not wanted any more."""
        self._texts.discard(text)
        self.server.cancel(text)

    def _sequence(self, rounds: Rounds, encoded: EncodedFrame, reader: AnswerReader, tokens: int,
                  **how: Any) -> Any:
        try:
            messages, sent, dropped = RemotePrompts(self.model_config.prompt, encoded.boxes).messages(
                self._picture(encoded), rounds, encoded.points)
        except PromptError as error:
            raise Refused(Status.INVALID, str(error)) from error
        stream: TextStream[str] = TextStream("".join, self.config.decoding.stop_texts, reader.to_user,
                                             reader.unfinished)
        return RemoteText(max_new_tokens=tokens, dropped_rounds=dropped, stream=stream, on_text=how.get("on_text"),
                          messages=messages, sampling=self._sampling, sent=sent)

    def _picture(self, encoded: EncodedFrame) -> str:
        """The picture of a frame as it is sent, the same for all texts about it."""
        key = encoded.vision_key
        if key not in self._pictures:
            decoded = self.encoder.pixels(encoded.frame)
            pixels = check_frame(encoded.frame.image) if decoded is None else decoded
            assert isinstance(self.model_config, Qwen3VLConfig)
            self._pictures[key] = data_url(fit_frame(pixels, self.model_config.preprocess), self.config.server)
            if len(self._pictures) > _PICTURES_KEPT:
                self._pictures.popitem(last=False)
        return self._pictures[key]

    def _add(self, sequences: list[Any], priority: bool) -> None:
        self._texts.update(sequences)
        self.server.add(sequences, priority)

    def _forget_frame(self, key: int) -> None:
        self._pictures.pop(key, None)

    def forget_conversation(self, conversation_id: str) -> None:
        """Nothing is kept of a conversation."""

    # --- before, after and beside --------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Let the server describe a region of a grey frame, unless it is gone.

        Raises:
            ValueError: It is there and cannot, such as one that takes no pictures.
        """
        if self.server.trouble is not None:
            return
        try:
            self.rehearse(1)
        except ValueError:
            if self.server.trouble is None or not self.server.trouble.gone:  # else no failure of the model
                raise

    def _uncount(self) -> None:
        for counters in (self.counters, self.encoder.counters, self.server.counters):
            counters.update(dict.fromkeys(counters, 0))
        self.reuse.looked_up = self.reuse.kept = 0

    def abandon(self) -> None:
        """See `Pipeline.abandon`; the server is let go of, too."""
        super().abandon()
        for text in list(self._texts):
            self._leave(text)

    def reset(self) -> None:
        """Forget all that was computed."""
        self.abandon()
        self._pictures.clear()
        self.reuse.clear()
        self.encoder.clear()

    def close(self) -> None:
        """Close the connections; what is open is not answered any more."""
        self.server.close()

    def statistics(self) -> dict[str, float]:
        """Counters since construction or warm-up and the present state, for diagnostics."""
        numbers = {**self.encoder.counters, **self.counters, **self.server.counters, "live_rows": len(self._texts),
                   "server_gone": bool(self.server.gone),
                   "reuse_rate": self.reuse.kept / max(1, self.reuse.looked_up)}
        return {name: float(value) for name, value in numbers.items()}


def _read_adapter(folder: Path) -> NoReturn:
    raise ConfigError(f"{folder} is an adapter, and the model runs on a server: load it there, and name it in "
                      "server.model")
