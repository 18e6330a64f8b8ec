"""Benchmarks by name, and how a YAML mapping becomes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.evaluation import tabletop_suite as tabletop
from training.evaluation.base import Benchmark
from training.evaluation.captioning import RefCocogCaptioning, VisualGenomeCaptioning
from training.evaluation.choice import VcrChoice, Visual7W
from training.evaluation.detection import CocoClassification
from training.evaluation.errors import EvaluationError
from training.evaluation.grounding import RefCocoGrounding
from training.evaluation.hallucination import CocoPresence, Pope
from training.evaluation.semantic import Naming

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
    **{suite.name: suite for suite in (
        tabletop.TabletopCaptioning, tabletop.TabletopClassification, tabletop.TabletopNaming, tabletop.TabletopYesNo,
        tabletop.TabletopGrounding, tabletop.TabletopReasoning)},
}


def open_benchmark(values: Mapping[str, Any], where: str) -> Benchmark:
    """The benchmark of {"type": a key of BENCHMARKS, …its constructor's arguments}; paths may be plain strings.

    Raises EvaluationError for an unknown type and for an unknown or a missing argument.
    """
    arguments = dict(values)
    kind = arguments.pop("type", None)
    if kind not in BENCHMARKS:
        raise EvaluationError(f"{where}: type is {kind!r}, expected one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[kind](**check_arguments(BENCHMARKS[kind], arguments, f"{where} ({kind})"))


def check_arguments(benchmark: Callable[..., Benchmark], arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``arguments`` with paths made Path. Raises EvaluationError for an unknown and for a missing one."""
    parameters = inspect.signature(benchmark).parameters
    unknown = sorted(set(arguments) - set(parameters))
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in arguments]
    if unknown or missing:
        raise EvaluationError(f"{where}: unknown {unknown}, missing {missing}; there are {list(parameters)}")
    checked = dict(arguments)
    for name, value in arguments.items():
        annotation = str(parameters[name].annotation)
        if annotation.startswith("tuple[Path"):
            checked[name] = tuple(Path(path) for path in ([value] if isinstance(value, (str, Path)) else value))
        elif annotation.startswith("Path") and value is not None:
            checked[name] = Path(value)
    return checked
