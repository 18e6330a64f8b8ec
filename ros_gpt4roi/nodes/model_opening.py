"""The models of the perception node, opened: a folder or a server, and what takes over from it."""
from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.engine.build_process import Progress
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.device import weights_bytes
from ros_gpt4roi.runtime.fallback import FallbackOptions, FallbackPipeline
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig

from .diagnostics import Problems


class ModelOpener:
    """Opens models, on any thread.

    Args:
        config: How they are run.
        fallback_model: Name or folder of what takes over; empty: nothing does.
        fallback: When it takes over.
        tell: Called with what opening is at; empty at its end.
        problems: Counts what is odd.
    """

    def __init__(self, config: PipelineConfig, fallback_model: str, fallback: FallbackOptions,
                 tell: Callable[[str], None], problems: Problems) -> None:
        self._config, self._fallback_model, self._fallback = config, fallback_model, fallback
        self._bare = replace(config, remote="", adapters=(), adapter="")
        self._tell, self._problems = tell, problems
        self._second: Pipeline | None = None  # takes over from whichever serves

    def open(self, folder: Path | None) -> Pipeline:
        """What is to serve: a folder's model or, without a folder, the server's; with what takes over from it."""
        fallback = self._find_fallback(folder) if self._fallback_model else None  # before what takes long
        first = self._connect() if folder is None else self._open(folder, self._config)
        if fallback is None:
            return first
        try:
            self._tell(f"loading {fallback}")
            self._second = self.open_bare(fallback)
        except Exception:
            first.close()
            raise
        return self._with_fallback(first, folder)

    def _find_fallback(self, model: Path | None) -> Path:
        try:
            folder = find_model(self._fallback_model)
        except ConfigError as error:
            raise ConfigError(f"fallback_{error}") from error
        if model is not None and folder.resolve() == model.resolve():
            raise ConfigError(f"fallback_model is {self._fallback_model!r}, the model itself, expected a smaller one")
        return folder

    def open_bare(self, folder: Path) -> Pipeline:
        """Another model: without the adapters that were named, which are made for one model, and nothing beside it."""
        return self._open(folder, self._bare)

    def complete(self, pipeline: Pipeline, folder: Path) -> Pipeline:
        """What `open_bare` has opened, with what takes over from it. For whoever serves next: the two share that."""
        return self._with_fallback(pipeline, folder)

    def _with_fallback(self, first: Pipeline, folder: Path | None) -> Pipeline:
        if self._second is None:
            return first
        if folder is None:
            return FallbackPipeline(first, self._second, self._fallback)
        # Bare, since it keeps its adapters: their folders may be gone meanwhile.
        return FallbackPipeline(first, self._second, self._fallback, functools.partial(self.open_bare, folder),
                                weights_bytes(folder))

    def _open(self, folder: Path, config: PipelineConfig) -> Pipeline:
        try:
            pipeline = Pipeline.open(folder, config, self._on_progress)
            self._tell("warming up")
            pipeline.warm_up()
            return pipeline
        finally:
            self._tell("")

    def _connect(self) -> Pipeline:
        """The server's model; a server that is gone is looked for from now on.

        One that refuses all is an error, unless there is a model that serves until it does not.
        """
        from ros_gpt4roi.runtime.remote.pipeline import RemotePipeline  # with what it needs, only where it is used
        pipeline = RemotePipeline.connect(self._config, insist=not self._fallback_model)
        try:
            pipeline.warm_up()
        except Exception:
            if not (self._fallback_model and pipeline.trouble):
                pipeline.close()
                raise
        if in_the_clear := pipeline.server.in_the_clear:
            self._problems.note("key in the clear", in_the_clear)
        return pipeline

    def _on_progress(self, progress: Progress) -> None:
        """Of an engine that is being built."""
        self._tell(f"{progress.step}, {progress.fraction:.0%}")
