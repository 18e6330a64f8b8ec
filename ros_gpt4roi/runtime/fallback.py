"""Two models of which one serves: the other takes over when the first cannot, and gives back."""
from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NoReturn

import torch

from ..configuration import ConfigError, Configuration, setting
from .adapter_folder import Adapter
from .adapters import Adapters
from .device import free_memory, out_of_memory
from .found_regions import FoundRegions
from .pipeline import Pipeline
from .request import DescriptionRequest, Question, Refused
from .types import Frame, FrameDescriptions, Status

_log = logging.getLogger(__name__)
_LOOK_S = 1.0  # how often memory is looked at
_MOST_WAITS = 16  # so many times `retry_s` is the longest wait
_MIB = 1 << 20


@dataclass(frozen=True)
class FallbackOptions(Configuration):
    """When `fallback_model` takes over, and when the model is tried again."""

    latency_s: float = setting(0.0, "It takes over when every frame's descriptions and every answer take longer than "
                                    "this, for `patience_s`; 0: never for that.", at_least=0, unit="seconds")
    patience_s: float = setting(10.0, "So long latency has to stay over its limit.", at_least=0, unit="seconds")
    free_mib: int = setting(256, "It takes over, and the model is unloaded, when less memory is free where models lie; "
                                 "0: only when memory has run out.", at_least=0, unit="MiB")
    retry_s: float = setting(30.0, "The model is tried again after so long, and after twice as long each time that it "
                                   "fails soon, up to 16 times as long. A server is used again once it is back.",
                             more_than=0, unit="seconds")


class _Cause(Enum):
    GONE, LATENCY, MEMORY = range(3)


class FallbackPipeline(Pipeline):
    """See the module, and `Pipeline`. Each request is served by that which serves when it begins.

    What the first has begun when it fails, and nobody has heard a word of, begins again at the second. A conversation
    goes on with either, over what was said.

    Args:
        first: What serves while it can.
        second: What serves else; it stays loaded.
        options: When.
        reload: Loads the first again, on any thread, after it had to be unloaded; None: it takes no memory here.
        needed: Bytes of memory that this takes.
        clock: A steady clock, in seconds.
        free: How many bytes are free on a device.
    """

    def __init__(self, first: Pipeline, second: Pipeline, options: FallbackOptions,
                 reload: Callable[[], Pipeline] | None = None, needed: int = 0,
                 clock: Callable[[], float] = time.monotonic, free: Callable[[torch.device], int] = free_memory):
        self._first: Pipeline | None = first
        self._second, self._options, self._reload, self._needed = second, options, reload, needed
        self._clock, self._free, self._device = clock, free, torch.device(second.device.name)
        self._cause: _Cause | None = None
        self._trouble = ""
        self._over_since: float | None = None  # latency
        self._retry_at = self._wait_s = self._look_at = 0.0
        self._back_at = -float("inf")
        self._loading: Future[Pipeline] | None = None
        self.config, self.device = first.config, self._local().device
        self.adapters = first.adapters  # also while it is unloaded
        self.counters = {"fallback_taken": 0, "fallback_given_back": 0, "requests_begun_again": 0}
        self.live: list[Question | DescriptionRequest] = []
        self._show()

    # --- which of both -------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """Why the second serves; empty while the first does."""
        return self._trouble

    def _serving(self) -> Pipeline:
        return self._second if self._cause is not None or self._first is None else self._first

    def _show(self) -> None:
        """Say what serves now."""
        serving = self._serving()
        self.version, self.model_config = serving.version, serving.model_config

    def version_of(self, adapter: Adapter | None) -> str:
        """See `Pipeline.version_of`."""
        serving = self._serving()
        return serving.version_of(adapter if serving is self._first else None)

    def _take_over(self, cause: _Cause, why: str) -> None:
        now, name = self._clock(), self._first.version if self._first is not None else ""
        soon = now - self._back_at < self._options.retry_s
        usual = 0.0 if cause is _Cause.GONE else self._options.retry_s
        self._wait_s = min(max(2 * self._wait_s, self._options.retry_s),
                           _MOST_WAITS * self._options.retry_s) if soon else usual
        self._cause, self._retry_at, self._over_since = cause, now + self._wait_s, None
        self._trouble = f"{self._second.version} serves in place of {name or 'a server'}: {why}"
        self.counters["fallback_taken"] += 1
        _log.warning("%s", self._trouble)
        self._show()

    def _give_back(self) -> None:
        self._cause, self._trouble, self._back_at = None, "", self._clock()
        self.counters["fallback_given_back"] += 1
        self._show()
        _log.warning("%s serves again", self.version or "the server")

    def _decide(self) -> None:
        """Look whether the other has to serve from now on."""
        now = self._clock()
        if self._cause is None:
            assert self._first is not None
            if self._first.trouble:
                self._take_over(_Cause.GONE, self._first.trouble)
            elif self._reload is not None and now >= self._look_at:
                self._look_at = now + _LOOK_S
                if (free := self._free(self._device)) < self._options.free_mib * _MIB:
                    self._take_over(_Cause.MEMORY, f"{free // _MIB} MiB of memory are free, expected "
                                                   f"{self._options.free_mib} (fallback.free_mib)")
        elif self._cause is _Cause.MEMORY:
            self._make_room(now)
        elif now >= self._retry_at and self._first is not None and not self._first.trouble:
            self._give_back()

    def _make_room(self, now: float) -> None:
        """Unload the first once nobody needs it, and load it again when there is room."""
        if self._first is not None:
            if not self._first.live:
                kept = Adapters(_read_adapter)  # which knows nothing of the model
                kept.adopt(self.adapters)
                self.adapters = kept
                self._first.close()
                self._first = None
                _clean()
        elif self._loading is None:
            if now >= max(self._retry_at, self._look_at):
                self._look_at = now + _LOOK_S
                if self._free(self._device) >= self._needed + self._options.free_mib * _MIB:
                    self._load()
        elif self._loading.done():
            loading, self._loading = self._loading, None
            try:
                self._first = loading.result()
            except Exception as error:  # no room for it after all
                self._wait_s = min(2 * max(self._wait_s, self._options.retry_s), _MOST_WAITS * self._options.retry_s)
                self._retry_at = now + self._wait_s
                self._trouble = (f"{self._second.version} serves: the model could not be loaded again: "
                                 f"{type(error).__name__}: {error}")
                _log.warning("%s", self._trouble)
                _clean()
                return
            self._first.adapters.adopt(self.adapters)
            self.adapters = self._first.adapters
            self._give_back()

    def _load(self) -> None:
        loading: Future[Pipeline] = Future()
        reload = self._reload
        assert reload is not None  # what is not loaded is not unloaded

        def run() -> None:
            try:
                loading.set_result(reload())
            except Exception as error:
                loading.set_exception(error)

        self._loading = loading
        threading.Thread(target=run, name="fallback-reload", daemon=True).start()

    # --- requests ------------------------------------------------------------------------------------------------

    def begin(self, request: Question | DescriptionRequest) -> None:
        """See `Pipeline.begin`."""
        self._decide()
        first = self._first
        try:
            if first is None or self._serving() is self._second:
                self._begin_second(request)
                return
            try:
                first.begin(request)
            except Refused:
                if not first.trouble:
                    raise
                self._take_over(_Cause.GONE, first.trouble)
                self._begin_second(request)
            except Exception as error:
                if self._reload is None or not out_of_memory(error):
                    raise
                self._run_out(error)
                self._begin_second(request)
        finally:
            self._gather()

    def _begin_second(self, request: Question | DescriptionRequest) -> None:
        if isinstance(request, Question):  # adapters are the first's
            request.adapter = None
            if request.conversation is not None:
                request.conversation.adapter = None
        self._second.begin(request)

    def step(self) -> list[Question | DescriptionRequest]:
        """See `Pipeline.step`."""
        self._decide()
        finished: list[Question | DescriptionRequest] = []
        if self._first is not None and self._first.live:
            try:
                done = self._first.step()
                self._look_at_latency(self._first.live, done)
                finished += [request for request in done if not (self._is_lost(request) and self._begin_again(request))]
            except Exception as error:
                if self._reload is None or not out_of_memory(error):
                    raise
                finished += [request for request in self._run_out(error) if not self._begin_again(request)]
        if self._second.live:
            finished += self._second.step()
        self._gather()
        return finished

    def _run_out(self, error: BaseException) -> list[Question | DescriptionRequest]:
        """Memory has run out: the second takes over; returns what the first had begun."""
        assert self._first is not None
        begun = list(self._first.live)
        self._first.reset()
        self._take_over(_Cause.MEMORY, f"memory has run out ({type(error).__name__})")
        for request in begun:
            request.end(Status.FAILED, "memory has run out")
            request.result = request.refusal(Status.FAILED, "memory has run out")
        self._make_room(self._clock())
        return begun

    def _is_lost(self, request: Question | DescriptionRequest) -> bool:
        """Whether a request has failed, or a text of it, because the server has gone."""
        assert self._first is not None and request.result is not None
        return bool(self._first.trouble) and any(status in (Status.FAILED, Status.TIMEOUT) for status in (
            request.result.status, *(text.status for text in request.sequences)))

    def _begin_again(self, request: Question | DescriptionRequest) -> bool:
        """Let the second serve what the first has failed; False where words were heard, or the time is over."""
        if request.over(self._clock()) or isinstance(request, Question) and any(
                text.text for text in request.sequences):
            return False
        if self._cause is None and self._first is not None:
            self._take_over(_Cause.GONE, self._first.trouble)
        if isinstance(request, Question):
            if isinstance(request.reader, FoundRegions) and request.conversation is not None:
                request.conversation.remove_regions([region.id for region in request.reader.added])
        else:
            request.kept = []
        request.sequences, request.result, request.encoded = [], None, None
        try:
            self._begin_second(request)
        except Refused as refusal:
            request.result = request.refusal(refusal.status, str(refusal))
            return False
        self.counters["requests_begun_again"] += 1
        return True

    def _look_at_latency(self, live: list[Question | DescriptionRequest],
                         done: list[Question | DescriptionRequest]) -> None:
        limit, now = self._options.latency_s, time.perf_counter()
        if not limit or self._cause is not None:
            return
        took = [sum(request.result.timings.values()) if isinstance(request.result, FrameDescriptions)
                else now - request.began for request in done]
        took += [seconds for request in live if (seconds := now - request.began) > limit]
        if not took:
            return
        if min(took) <= limit:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = self._clock()
        elif self._clock() - self._over_since >= self._options.patience_s:
            self._take_over(_Cause.LATENCY, f"frames and answers took up to {max(took):.1f} s, over {limit:g} s "
                                            f"(fallback.latency_s) for {self._options.patience_s:g} s")

    def _gather(self) -> None:
        self.live[:] = [*(self._first.live if self._first is not None else ()), *self._second.live]

    # --- both ----------------------------------------------------------------------------------------------------

    def _both(self) -> list[Pipeline]:
        return [pipeline for pipeline in (self._first, self._second) if pipeline is not None]

    def abandon(self) -> None:
        """See `Pipeline.abandon`."""
        for pipeline in self._both():
            pipeline.abandon()
        self._gather()

    def reset(self) -> None:
        """See `Pipeline.reset`."""
        for pipeline in self._both():
            pipeline.reset()
        self._gather()

    def close(self) -> None:
        """See `Pipeline.close`."""
        for pipeline in self._both():
            pipeline.close()

    def forget_conversation(self, conversation_id: str) -> None:
        """See `Pipeline.forget_conversation`."""
        for pipeline in self._both():
            pipeline.forget_conversation(conversation_id)

    def warm_up(self) -> None:
        """Each is warm already."""

    def prepare(self, frame: Frame) -> None:
        """See `Pipeline.prepare`. The second, which may be serving elsewhere, is left alone."""
        if self._first is not None and self._cause is None:
            self._first.prepare(frame)

    def rehearse(self, regions: int) -> Frame:
        """See `Pipeline.rehearse`."""
        return self._local().rehearse(regions)

    def _local(self) -> Pipeline:
        """The larger of those that run here."""
        return self._second if self._reload is None or self._first is None else self._first

    def placement(self) -> dict[str, str]:
        """What runs where, and why, in words for people."""
        return {**self._serving().placement(), "fallback model": self._second.version}

    def statistics(self) -> dict[str, float]:
        """Those of what serves, and of the changes."""
        numbers = {**self._second.statistics(), **self._serving().statistics(), **self.counters,
                   "fallback_serves": self._cause is not None}
        return {name: float(value) for name, value in numbers.items()}


def _read_adapter(folder: Path) -> NoReturn:
    raise ConfigError(f"{folder} is an adapter, and the model that it may be for is not loaded now: memory had run out")


def _clean() -> None:
    """Give memory back that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
