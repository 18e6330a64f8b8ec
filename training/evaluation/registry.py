"""Benchmarks by name, and how a YAML mapping becomes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ros_gpt4roi.configuration import ConfigError, build
from training.evaluation.base import Benchmark
from training.evaluation.captioning import RefCocogCaptioning, VisualGenomeCaptioning
from training.evaluation.choice import VcrChoice, Visual7W
from training.evaluation.detection import CocoClassification
from training.evaluation.errors import EvaluationError
from training.evaluation.grounding import RefCocoGrounding
from training.evaluation.hallucination import CocoPresence, Pope
from training.evaluation.semantic import Naming
from training.evaluation.tabletop_suite import SUITES, Tabletop

BENCHMARKS: dict[str, Callable[..., Benchmark]] = {
    "vg_captioning": VisualGenomeCaptioning,
    "refcocog_captioning": RefCocogCaptioning,
    "vcr": VcrChoice,
    "visual7w": Visual7W,
    "naming": Naming,
    "coco_classification": CocoClassification,
    "coco_presence": CocoPresence,
    "pope": Pope,
    "grounding": RefCocoGrounding,
    **{name: partial(Tabletop, name) for name in SUITES},
}


def open_benchmark(values: Mapping[str, Any], where: str) -> Benchmark:
    """The benchmark of {"type": a key of BENCHMARKS, …its constructor's arguments}; paths may be plain strings.

    Raises EvaluationError for an unknown type and for an unknown or a missing argument.
    """
    arguments = dict(values)
    kind = arguments.pop("type", None)
    if kind not in BENCHMARKS:
        raise EvaluationError(f"{where}: type is {kind!r}, expected one of {', '.join(BENCHMARKS)}")
    try:
        return build(BENCHMARKS[kind], arguments)
    except ConfigError as error:
        raise EvaluationError(f"{where} ({kind}): {error}") from error
