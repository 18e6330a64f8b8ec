"""(frame, boxes, question) → text: what the nodes, consoles and benchmarks all call."""
from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.build_process import ProgressCallback
from ..model.checkpoint import LoadedModel, LoadedQwen3VL, folder_version
from ..model.config import ModelConfig
from ..model.prompt import PromptError, References
from ..model.qwen3_vl import AnyVisionOutput, Qwen3VLConfig
from ..model.region_words import BoxReferences
from .adapter_folder import Adapter
from .adapters import Adapters
from .device import Device, choose_device, out_of_memory
from .format_choice import AUTO, FormatChoice, choose_format
from .found_regions import FoundRegions
from .frame_encoder import FrameEncoder
from .language_cache import load_kept
from .language_stage import LanguageStage, Rounds
from .pipeline_config import PipelineConfig as PipelineConfig
from .pointing import PointingError
from .region_text import UnknownRegionError
from .request import (
    AnswerReader,
    Conversation,
    DescriptionRequest,
    EncodedFrame,
    Question,
    Refused,
    Request,
    Result,
    Sequence,
)
from .reuse import DescriptionReuse, unit
from .types import Answer, Description, Frame, FrameDescriptions, Region, Status
from .vision_stage import VisionStage

logger = logging.getLogger(__name__)
_DEFAULTS = PipelineConfig()


class Pipeline:
    """A model ready to describe and to answer. Not thread-safe.

    `describe` and `ask` serve one request from start to end. A scheduler that has several at once uses `begin` and
    `step`: what has begun is decoded together.

    Attributes:
        config: How the model is run, with the number format that was chosen.
        model_config: The model's own configuration.
        version: Names the model and its weights, as `folder_version`; empty where it came from no folder.
        adapters: Those of the language model, and which of them serves.
        device: Where it runs, and why.
        number_format: That of the language model, and why.
        encoder: Runs the vision stage.
        language: The language stage.
        prompts: How it is asked.
        reuse: The descriptions that may be kept.
        live: The requests that have begun and are not done.
        counters: What has happened since construction or warm-up, for diagnostics.
    """

    def __init__(self, loaded: LoadedModel | LoadedQwen3VL, config: PipelineConfig):
        """Make a pipeline of a loaded model, with its vision stage in PyTorch.

        Args:
            loaded: The model.
            config: How it is run; `device`, `language_format` and `vision` are what `open` goes by.
        """
        self.language = LanguageStage(loaded, config.decoding)
        self.adapters = Adapters(self.language.read_adapter)
        self.prompts: References = self.language.prompts
        self._begin_with(config, loaded.config if isinstance(loaded, LoadedModel)
                         else loaded.config.within(config.vision.max_pixels), VisionStage(loaded.model))
        self.device = Device(str(loaded.model.device), "the model's")
        self.number_format = FormatChoice(config.language_format, "the model's")

    @property
    def trouble(self) -> str:
        """Why another model serves than was asked for, or none; empty where all is well."""
        return ""

    def _begin_with(self, config: PipelineConfig, model_config: ModelConfig | Qwen3VLConfig,
                    vision: VisionStage) -> None:
        """What a pipeline has whoever writes its texts."""
        self.config, self.version, self.model_config = config, "", model_config
        self.encoder = FrameEncoder(vision, model_config, self._forget_frame)
        self.reuse = DescriptionReuse(config.reuse_distance, config.reuse_age_s)
        self._describe = config.describe or model_config.prompt.describe
        self.live: list[Question | DescriptionRequest] = []
        self.counters = {"rounds_dropped": 0, "regions_found": 0}

    @classmethod
    def open(cls, model_folder: str | Path, config: PipelineConfig = _DEFAULTS,
             progress: ProgressCallback | None = None) -> Pipeline:
        """Load a checkpoint folder, and an engine of its vision stage as `config.vision` says.

        Args:
            model_folder: The checkpoint.
            config: How it is run.
            progress: Called with how far building an engine has come.

        Raises:
            CheckpointError: The checkpoint is incomplete or damaged, or an adapter is or does not fit it.
            EngineError: The vision backend asked for does not work here.
            ConfigError: The configuration makes no sense, or the device asked for does not work here.
        """
        device = choose_device(config.device)
        number_format = FormatChoice(config.language_format, "asked for")
        if config.language_format == AUTO:
            number_format = choose_format(Path(model_folder), device.name)
            config = dataclasses.replace(config, language_format=number_format.name)
        loaded = load_kept(model_folder, config.language_format, device.name, config.vision.engine)
        pipeline = cls(loaded, config)
        pipeline.device, pipeline.version = device, folder_version(model_folder)
        pipeline.number_format = number_format
        pipeline.adapters.open(config.adapters, config.adapter)
        pipeline.encoder.vision = VisionStage.open(loaded, config.vision, Path(model_folder), progress,
                                                   pipeline.describe_output)
        return pipeline

    def version_of(self, adapter: Adapter | None) -> str:
        """Name the model with an adapter, as answers carry it."""
        return self.version if adapter is None else f"{self.version}+{adapter.version}"

    def placement(self) -> dict[str, str]:
        """What runs where, and why: device, vision stage and language model, in words for people."""
        vision = self.encoder.vision
        return {"device": f"{self.device.name}: {self.device.reason}",
                "vision stage": f"{vision.backend}: {vision.precision}, {vision.reason}",
                "language model": f"{self.number_format.name}: {self.number_format.reason}"}

    # --- one request from start to end ---------------------------------------------------------------------------

    def describe(self, frame: Frame, cancelled: Callable[[], bool] = lambda: False) -> FrameDescriptions:
        """Describe every region of a frame.

        Args:
            frame: Image and regions.
            cancelled: Asked before every step whether to stop.
        """
        return self._run(DescriptionRequest(frame=frame), cancelled)

    def embed(self, frame: Frame) -> FrameDescriptions:
        """Give the embedding of every region of a frame, and no description."""
        return self._run(DescriptionRequest(frame=frame, embeddings_only=True), lambda: False)

    def ask(self, conversation: Conversation, question: Question,
            cancelled: Callable[[], bool] = lambda: False) -> Answer:
        """Answer a question; a complete answer becomes a round of the conversation.

        Args:
            conversation: The frame and the rounds so far.
            question: What is asked.
            cancelled: Asked before every step whether to stop.
        """
        question.conversation = conversation
        return self._run(question, cancelled)

    def _run(self, request: Request[Result], cancelled: Callable[[], bool]) -> Result:
        assert isinstance(request, (Question, DescriptionRequest))
        try:
            self.begin(request)
        except Refused as refusal:
            return request.refusal(refusal.status, str(refusal))
        while request.result is None:
            if cancelled():
                request.end(Status.CANCELED, "cancelled by the caller")
            self.step()
        return request.result

    # --- several requests at once --------------------------------------------------------------------------------

    def begin(self, request: Question | DescriptionRequest) -> None:
        """Encode the request's frame and let its texts join the batch; questions go first.

        Raises:
            Refused: The request cannot be served: a bad image or box, a question that cannot be asked, or an error that
                concerns it alone.
        """
        try:
            if isinstance(request, Question):
                self._begin_question(request)
            else:
                self._begin_description(request)
        except Refused:
            raise
        except Exception as error:
            if out_of_memory(error):  # nobody can be served
                raise
            logger.exception("a request failed at its beginning")
            raise Refused(Status.FAILED, f"{type(error).__name__}: {error}") from error
        request.began = time.perf_counter()
        self.live.append(request)

    def step(self) -> list[Question | DescriptionRequest]:
        """Take all that has begun one decode step further; returns the requests that now have their result."""
        self._advance()
        finished = [request for request in self.live if request.done]
        for request in finished:
            self.live.remove(request)
            try:
                if isinstance(request, Question):
                    request.result = self._answer(request)
                else:
                    request.result = self._descriptions(request)
            except Exception as error:
                logger.exception("a request failed at its end")
                request.result = request.refusal(Status.FAILED, f"{type(error).__name__}: {error}")
        return finished

    def _advance(self) -> None:
        """Let the texts grow."""
        self.language.generator.step()

    def abandon(self) -> None:
        """Let go of what has begun: its requests have been answered otherwise."""
        self.live.clear()

    def close(self) -> None:
        """Give back what collecting garbage does not."""

    # --- a description -------------------------------------------------------------------------------------------

    def _begin_description(self, request: DescriptionRequest) -> None:
        assert request.frame is not None
        encoded = request.encoded = self.encoder.encode(request.frame)
        if encoded.refused and not encoded.shown:
            raise Refused(Status.INVALID, "; ".join(encoded.refused))
        if request.embeddings_only:
            return
        request.adapter = self.adapters.serving
        kept = self.reuse.keep([region.id for region in encoded.shown], encoded.vision.region_embeddings[0],
                               encoded.frame.stamp_ns, request.adapter)
        for place, (region, description) in enumerate(zip(encoded.shown, kept), start=1):
            if description is None:
                earlier = self.reuse.last(region.id)
                request.sequences.append(self._sequence(
                    [(self._describe.replace("{region}", f"<region{place}>"), None)], encoded, self._reader(encoded),
                    self.config.description_tokens, adapter=request.adapter, draft=earlier.ids if earlier else (),
                    # With a single region nothing is shared yet; its cache serves the questions that may follow.
                    cache_key=("frame", encoded.frame.key) if len(encoded.shown) == 1 else None))
        request.kept = kept
        self._add(request.sequences, priority=False)

    def _descriptions(self, request: DescriptionRequest) -> FrameDescriptions:
        encoded, fresh, descriptions = request.encoded, iter(request.sequences), []
        assert encoded is not None
        ended = {sequence.status for sequence in request.sequences}
        # A text that failed costs its region alone, unless no region has one, or something ended them all.
        each = ended <= {Status.OK, Status.FAILED} and (Status.OK in ended or any(request.kept))
        failed: list[str] = []
        for region, kept, embedding in zip(encoded.shown, request.kept, encoded.vision.region_embeddings[0]):
            if kept is not None:
                descriptions.append(Description(region, kept.text, kept.confidence, reused=True))
                continue
            sequence = next(fresh)
            assert sequence.stream is not None
            if sequence.status is Status.OK:
                self.reuse.put(region.id, sequence.text, sequence.confidence, tuple(sequence.generated), embedding,
                               encoded.frame.stamp_ns, encoded.text.mentioned(sequence.stream.raw))
            if each and sequence.status is Status.FAILED:
                failed.append(f"region {region.id!r} has no text: {sequence.error}")
            elif sequence.status is Status.OK or sequence.text:
                descriptions.append(Description(region, sequence.text, sequence.confidence))
        seconds = {**encoded.seconds, "language": time.perf_counter() - request.began}
        embeddings = {region.id: unit(embedding).numpy() for region, embedding in
                      zip(encoded.shown, encoded.vision.region_embeddings[0] if request.embeddings_only else ())}
        status, error = (Status.OK, "") if each else (request.status, request.error)
        return FrameDescriptions(encoded.frame, tuple(descriptions), seconds, status, error,
                                 encoded.omitted, (*encoded.refused, *failed), self.encoder.pixels(encoded.frame),
                                 self.version_of(request.adapter), embeddings)

    def describe_output(self, vision: AnyVisionOutput, boxes: np.ndarray, max_new_tokens: int) -> list[str]:
        """Describe the first regions of a vision output, greedily: what an engine is compared with PyTorch by.

        Args:
            vision: Of one frame, on any device.
            boxes: Of its first regions, in units of the image, float32 [N, 4].
            max_new_tokens: Most tokens of a text.
        """
        count = min(len(boxes), self.model_config.prompt.max_regions)
        vision = vision.first(count)
        return self.language.answers([[(self._describe.replace("{region}", f"<region{place}>"), None)]
                                      for place in range(1, count + 1)], vision, max_new_tokens,
                                     boxes=boxes[:count])

    # --- a question ----------------------------------------------------------------------------------------------

    def _begin_question(self, question: Question) -> None:
        text, conversation = question.text.strip(), question.conversation
        assert conversation is not None
        if not text:
            raise Refused(Status.INVALID, "the question is empty")
        if len(question.text) > self.config.question_characters:
            raise Refused(Status.INVALID, f"the question has {len(question.text)} characters, expected at most "
                                          f"{self.config.question_characters}")
        try:
            self.prompts.check_user_text(text)
        except PromptError as error:
            raise Refused(Status.INVALID, str(error)) from error
        encoded = question.encoded = self.encoder.encode(conversation.frame)
        if not conversation.rounds:
            conversation.adapter = question.adapter or self.adapters.serving
        question.adapter = conversation.adapter  # its caches and what was said are this one's
        try:
            question.asked = encoded.text.to_model(text, pointed := question.pointed())
        except PointingError as error:
            question.points_nowhere = not pointed.ids
            raise Refused(Status.INVALID, str(error)) from error
        except UnknownRegionError as error:
            raise Refused(Status.UNKNOWN_REGION, "; ".join((str(error), *encoded.refused))) from error
        question.reader = self._reader(encoded, conversation)
        sequence = self._sequence([*conversation.rounds, (question.asked, None)], encoded, question.reader,
                                  self.config.answer_tokens, adapter=question.adapter,
                                  cache_key=None if question.for_watch else ("conversation", conversation.id),
                                  on_text=question.on_text)
        self.counters["rounds_dropped"] += sequence.dropped_rounds
        del conversation.rounds[:sequence.dropped_rounds]  # for good: there will never be room for them again
        question.sequences = [sequence]
        self._add(question.sequences, priority=not question.for_watch)

    def _answer(self, question: Question) -> Answer:
        sequence, conversation, reader = question.sequences[0], question.conversation, question.reader
        assert conversation is not None and reader is not None and sequence.stream is not None
        raw, error = sequence.stream.raw, question.error
        if question.status is Status.OK:
            conversation.rounds.append((question.asked, self.prompts.as_said(raw.strip())))
            if sequence.cut:
                error = f"the answer was cut after {len(sequence.generated)} tokens"
        region_ids, evidence_ids = reader.asserted(question.asked, raw, question.subject,
                                                   question.status is Status.OK and not sequence.cut)
        if region_ids:
            conversation.subject = region_ids[0] if len(region_ids) == 1 else ""
        refused: tuple[str, ...] = ()
        if isinstance(reader, FoundRegions):
            self.counters["regions_found"] += len(reader.added)
            refused = tuple(reader.refused)
        return Answer(question.status, sequence.text, error, region_ids, evidence_ids, conversation.id, question.id,
                      conversation.frame, sequence.confidence, self.version_of(question.adapter), refused)

    def _forget_frame(self, key: int) -> None:
        self.language.generator.prefixes.drop(("frame", key))

    def forget_conversation(self, conversation_id: str) -> None:
        """Give back what was kept for the next round of a conversation that is closed."""
        self.language.generator.prefixes.drop(("conversation", conversation_id))

    # --- both ----------------------------------------------------------------------------------------------------

    def _reader(self, encoded: EncodedFrame, conversation: Conversation | None = None) -> AnswerReader:
        if isinstance(self.prompts, BoxReferences):
            return FoundRegions(encoded, conversation, self.model_config.prompt.max_regions)
        return encoded.text

    def _sequence(self, rounds: Rounds, encoded: EncodedFrame, reader: AnswerReader, tokens: int,
                  **how: Any) -> Sequence:
        try:
            return self.language.sequence(rounds, encoded.vision, encoded.vision_key, tokens, boxes=encoded.boxes,
                                          points=encoded.points, region_keys=encoded.region_keys,
                                          render=reader.to_user, hold=reader.unfinished, **how)
        except PromptError as error:
            raise Refused(Status.INVALID, str(error)) from error

    def _add(self, sequences: list[Sequence], priority: bool) -> None:
        try:
            self.language.generator.add(sequences, priority)
        except ValueError as error:
            raise Refused(Status.INVALID, str(error)) from error

    # --- before, after and beside --------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Run everything once at full size, so that the first request is as fast as the next. Leaves no trace.

        Raises:
            ValueError: The model fails, as one does whose weights are not finite.
        """
        frame = self.rehearse(self.model_config.prompt.max_regions)
        _must_work(self.ask(Conversation("", frame), Question("What is region 1?")))
        self.language.generator.warm_up()
        self.reset()
        self._uncount()

    def prepare(self, frame: Frame) -> None:
        """Describe a frame before those behind it are served, so that what holds still in them needs no new text."""
        try:
            self.describe(frame)
        except Exception:  # whoever is served next sees the error, if there still is one
            logger.warning("a frame could not be described ahead", exc_info=True)
            self.reset()

    def rehearse(self, regions: int) -> Frame:
        """Describe so many regions of a grey frame, which is returned. Forgets what was computed and counted before.

        Raises:
            ValueError: The model fails.
        """
        height, width = self.model_config.preprocess.typical_frame
        edges = np.linspace(0, min(height, width) - 8, regions)
        frame = Frame(np.full((height, width, 3), 127, np.uint8),
                      tuple(Region(str(i + 1), (x, x, x + 8.0, x + 8.0)) for i, x in enumerate(edges.tolist())), 0, "")
        self.reset()
        _must_work(self.describe(frame))
        self._uncount()
        return frame

    def _uncount(self) -> None:
        """Set all counters to zero: nobody has asked for anything yet."""
        generator = self.language.generator
        for counters in (self.counters, self.encoder.counters, self.encoder.vision.counters, generator.counters):
            counters.update(dict.fromkeys(counters, 0))
        self.reuse.looked_up = self.reuse.kept = generator.prefixes.evictions = 0

    def reset(self) -> None:
        """Forget all that was computed; what is needed again is computed again. Clears up after a failure, too."""
        self.live.clear()
        self.language.generator.reset()
        self.reuse.clear()
        self.encoder.clear()

    def statistics(self) -> dict[str, float]:
        """Counters since construction or warm-up and the present state, for diagnostics."""
        generator = self.language.generator
        numbers = {**self.encoder.statistics(), **self.counters, **generator.counters,
                   "live_rows": generator.live_rows, "cache_bytes": generator.prefixes.bytes,
                   "cache_evictions": generator.prefixes.evictions,
                   "reuse_rate": self.reuse.kept / max(1, self.reuse.looked_up)}
        return {name: float(value) for name, value in numbers.items()}


def _must_work(result: Answer | FrameDescriptions) -> None:
    if result.status is Status.FAILED:
        raise ValueError(f"the model fails at its first requests: {result.error}")
