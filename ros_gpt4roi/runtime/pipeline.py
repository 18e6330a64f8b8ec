"""(frame, boxes, question) → text: what the nodes, consoles and benchmarks all call."""
from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..configuration import ConfigError, Configuration, setting
from ..engine.guard import ProgressCallback
from ..engine.network import VisionNetwork
from ..engine.provide import adopt_graph, model_slot
from ..model.checkpoint import LoadedModel
from ..model.preprocess import preprocess_frame
from ..model.prompt import PromptError
from ..model.shapes import RegionInputs, box_region, point_region, region_inputs
from .jobs import AnswerJob, Conversation, DescriptionJob, EncodedFrame
from .language_stage import DecodingConfig, LanguageStage
from .quantise import FORMATS, load_model
from .region_text import RegionText, UnknownRegionError
from .reuse import DescriptionReuse
from .types import Answer, Frame, FrameDescriptions, Question, Region, Status
from .vision_stage import VisionOptions, VisionStage

_FRAMES_KEPT = 8  # vision outputs of recent frames; a conversation over an older one encodes its frame again


@dataclass(frozen=True)
class PipelineConfig(Configuration):
    """How a model is run."""

    device: str = setting("cpu", "PyTorch's name of the device, such as cpu or cuda.")
    vision: VisionOptions = VisionOptions()
    language_format: str = setting("int8", "Number format of the language model.", choices=FORMATS)
    describe: str = setting("", "Question that describes a region, {region} stands for it; empty: the model's own.")
    description_tokens: int = setting(64, "Most tokens of a description.", at_least=1)
    answer_tokens: int = setting(128, "Most tokens of an answer.", at_least=1)
    question_characters: int = setting(2000, "Most characters of a question.", at_least=1)
    reuse_distance: float = setting(0.005, "A tracked region keeps its description while the cosine distance between "
                                           "its embedding and the described one is under this; 0: never.",
                                    at_least=0, at_most=2)
    reuse_age_s: float = setting(5.0, "Longest that a tracked region keeps its description.", at_least=0, unit="seconds")
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.describe and "{region}" not in self.describe:
            raise ConfigError(f"describe is {self.describe!r}, expected a question with {{region}} in it")


class Refused(Exception):
    """A request that is answered without the model: a status and why."""

    def __init__(self, status: Status, reason: str):
        super().__init__(reason)
        self.status = status


class Pipeline:
    """A model ready to describe and to answer.

    `describe` and `ask` do one thing from start to end. A scheduler that has several at once uses `begin_description`,
    `begin_answer` and `step` instead: what has begun decodes together. Not thread-safe.
    """

    def __init__(self, loaded: LoadedModel, config: PipelineConfig, vision: VisionStage | None = None):
        """vision: the stage to use; None runs it with PyTorch."""
        self.config, self.model_config = config, loaded.config
        self.vision = vision or VisionStage(loaded.model)
        self.language = LanguageStage(loaded, config.decoding)
        self.reuse = DescriptionReuse(config.reuse_distance, config.reuse_age_s)
        self._describe = config.describe or loaded.config.prompt.describe
        self._encoded: OrderedDict[int, EncodedFrame] = OrderedDict()
        self._keys = itertools.count()
        self.counters = {"frames_encoded": 0, "regions_omitted": 0}

    @classmethod
    def open(cls, model_folder: str | Path, config: PipelineConfig = PipelineConfig(),
             progress: ProgressCallback | None = None) -> Pipeline:
        """Load a checkpoint folder, and an engine of its vision stage as `config.vision` says.

        progress: called with how far building an engine has come. Raises CheckpointError, EngineError or ValueError
        that says what is wrong.
        """
        loaded = load_model(model_folder, config.language_format, config.device)
        slot = model_slot(Path(model_folder))
        if config.vision.backend != "torch":
            adopt_graph(Path(model_folder), VisionNetwork.of(loaded.model), slot, config.vision.engine.open_cache())
        vision = VisionStage.open(loaded, config.vision, slot, progress)
        return cls(loaded, config, vision)

    def warm_up(self) -> None:
        """Run everything once at full size, so that the first request is as fast as the next. Leaves no trace."""
        frame = self.rehearse(self.model_config.prompt.max_regions)
        self.ask(Conversation("", frame), Question("What is region 1?", ""))
        self.language.warm_up()
        self.reset()

    def rehearse(self, regions: int) -> Frame:
        """Describe so many regions of a grey frame, which is returned. Forgets all that was computed before."""
        size = self.model_config.preprocess.image_size
        edges = np.linspace(0, size - 8, regions)
        frame = Frame(np.full((size, size, 3), 127, np.uint8),
                      tuple(Region(str(i + 1), (x, x, x + 8.0, x + 8.0)) for i, x in enumerate(edges.tolist())), 0, "")
        self.reset()
        self.describe(frame)
        return frame

    def reset(self) -> None:
        """Forget all that was computed; what is needed again is computed again. Clears up after a failure, too."""
        self.language.reset()
        self.reuse.clear()
        self._encoded.clear()

    # --- one thing from start to end -----------------------------------------------------------------------------

    def describe(self, frame: Frame, cancelled: Callable[[], bool] = lambda: False) -> FrameDescriptions:
        """Describe every region of a frame. `cancelled` is asked before every step."""
        try:
            job = self.begin_description(frame)
        except Refused as refusal:
            return FrameDescriptions(frame, (), status=refusal.status, error=str(refusal))
        return self._finish(job, cancelled)

    def ask(self, conversation: Conversation, question: Question,
            cancelled: Callable[[], bool] = lambda: False) -> Answer:
        """Answer a question; a complete answer becomes a round of the conversation."""
        try:
            job = self.begin_answer(conversation, question)
        except Refused as refusal:
            return refusal_answer(question, refusal.status, str(refusal), conversation)
        return self._finish(job, cancelled)

    def _finish(self, job, cancelled):
        while not job.done:
            if cancelled():
                job.end(Status.CANCELED, "cancelled by the caller")
            self.step()
            job.poll()
        return job.result()

    # --- several things at once ----------------------------------------------------------------------------------

    def step(self) -> None:
        """Advance everything that has begun by one decode step; poll the jobs afterwards."""
        self.language.step()

    def begin_description(self, frame: Frame) -> DescriptionJob:
        """Encode a frame and let its regions' descriptions join the batch. Raises Refused for a bad image or box."""
        encoded = self.encode(frame)
        embeddings = encoded.vision.region_embeddings[0]
        kept = self.reuse.keep([region.id for region in encoded.shown], embeddings, frame.stamp_ns)
        sequences = []
        for place, region in enumerate(encoded.shown, start=1):
            if kept[place - 1] is not None:
                continue
            earlier = self.reuse.last(region.id)
            sequences.append(self._sequence(
                [(self._describe.replace("{region}", f"<region{place}>"), None)], encoded,
                self.config.description_tokens, draft=earlier.ids if earlier else (),
                # With a single region nothing is shared yet; its cache serves the questions that may follow.
                keep_as=("frame", encoded.key) if len(encoded.shown) == 1 else None))
        self._add(sequences, urgent=False)
        return DescriptionJob(encoded, kept, sequences, self.language, self.reuse)

    def begin_answer(self, conversation: Conversation, question: Question) -> AnswerJob:
        """Let a question join the batch, before descriptions. Raises Refused for one that cannot be asked."""
        if not question.text.strip():
            raise Refused(Status.INVALID, "the question is empty")
        if len(question.text) > self.config.question_characters:
            raise Refused(Status.INVALID, f"the question has {len(question.text)} characters, expected at most "
                                          f"{self.config.question_characters}")
        try:
            self.language.prompts.check_user_text(question.text)
        except PromptError as error:
            raise Refused(Status.INVALID, str(error)) from error
        encoded = self.encode(conversation.frame)
        try:
            asked = encoded.text.to_model(question.text.strip())
        except UnknownRegionError as error:
            raise Refused(Status.UNKNOWN_REGION, str(error)) from error
        sequence = self._sequence([*conversation.rounds, (asked, None)], encoded, self.config.answer_tokens,
                                  keep_as=("conversation", conversation.id))
        self._add([sequence], urgent=True)
        return AnswerJob(conversation, question, asked, encoded, sequence, self.language)

    def _sequence(self, rounds, encoded: EncodedFrame, tokens: int, **how):
        try:
            return self.language.sequence(rounds, encoded.vision, encoded.key, tokens, points=encoded.points, **how)
        except PromptError as error:
            raise Refused(Status.INVALID, str(error)) from error

    def _add(self, sequences, urgent: bool) -> None:
        try:
            self.language.add(sequences, urgent)
        except ValueError as error:
            raise Refused(Status.INVALID, str(error)) from error

    def encode(self, frame: Frame) -> EncodedFrame:
        """The frame's vision output, computed once. Raises Refused for an image or a box that is no good."""
        known = self._encoded.get(id(frame))  # entries hold their frame, so an id in here is not reused
        if known is not None:
            self._encoded.move_to_end(id(frame))
            return known
        shown, omitted = self._select(frame.regions)
        began = time.perf_counter()
        try:
            image = preprocess_frame(frame.image, self.model_config.preprocess)
            regions = self._inputs(shown, *frame.image.shape[:2])
        except ValueError as error:
            raise Refused(Status.INVALID, str(error)) from error
        prepared = time.perf_counter()
        vision = self.vision.encode(image[None], regions.boxes[None],
                                    None if regions.masks is None else regions.masks[None])
        seconds = {"preprocess": prepared - began, "vision": time.perf_counter() - prepared}
        text = RegionText([region.id for region in shown], [region.id for region in omitted])
        encoded = EncodedFrame(frame, shown, omitted, regions.points, vision, next(self._keys), text, seconds)
        self._encoded[id(frame)] = encoded
        self.counters["frames_encoded"] += 1
        self.counters["regions_omitted"] += len(omitted)
        if len(self._encoded) > _FRAMES_KEPT:
            _, oldest = self._encoded.popitem(last=False)
            self.language.decoder.store.drop(("frame", oldest.key))
        return encoded

    def _inputs(self, regions: tuple[Region, ...], height: int, width: int) -> RegionInputs:
        config = self.model_config
        return region_inputs([point_region(*region.box[:2], width, height, config.points) if region.is_point
                              else box_region(*region.box) for region in regions], width, height, config.regions)

    def statistics(self) -> dict[str, float]:
        """Counters since construction and the present state, for diagnostics."""
        decoder = self.language.decoder
        numbers = {**self.counters, **decoder.counters, "live_rows": decoder.live_rows,
                   "cache_bytes": decoder.store.bytes, "cache_evictions": decoder.store.evictions,
                   "reuse_rate": self.reuse.kept / max(1, self.reuse.looked_up)}
        return {name: float(value) for name, value in numbers.items()}

    def _select(self, regions: tuple[Region, ...]) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
        """The regions the model is shown, and those beyond its limit: the lowest scores."""
        limit = self.model_config.prompt.max_regions
        if len(regions) <= limit:
            return regions, ()
        best = set(sorted(range(len(regions)), key=lambda i: -regions[i].score)[:limit])
        return (tuple(r for i, r in enumerate(regions) if i in best),
                tuple(r for i, r in enumerate(regions) if i not in best))


def refusal_answer(question: Question, status: Status, reason: str, conversation: Conversation | None = None) -> Answer:
    """The answer to a question that was not decoded."""
    return Answer(status, "", reason, (), conversation.id if conversation else question.conversation_id,
                  question.query_id, conversation.frame if conversation else None)
