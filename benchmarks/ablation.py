"""Ablation on the tabletop: what each part of the region module is worth, in trainings of a minute.

    python -m benchmarks.ablation --json benchmarks/results/ablation.json

Every variant of benchmarks/ablation.yaml is trained from the same start on the same scenes with the same steps, once a
seed, by `training.train`, and is asked the questions of `training.evaluate tabletop`. Runs that are finished are not
repeated: an interruption costs the run that it met. The file is written after each run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import machine_facts, write_results
from ros_gpt4roi.configuration import Configuration, build, read_yaml, setting
from ros_gpt4roi.runtime.language_format import FORMATS
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from ros_gpt4roi.sim.tabletop.conversations import SCORED_TASKS
from training.evaluation.scenes import REGIONS, fraction
from training.evaluation.tabletop import ask_scenes
from training.recipe import Recipe
from training.train import train

ROOT = Path(__file__).resolve().parent.parent
SCORES = "scores.json"


@dataclass(frozen=True)
class Evaluation(Configuration):
    """How a trained model is run and shown the test scenes."""

    language_format: str = setting("fp32", "Number format of the language model.", choices=FORMATS)
    regions: str = setting("boxes", "How regions are shown.", choices=REGIONS)
    zero_regions: bool = setting(False, "Hide the regions' embeddings.")


@dataclass(frozen=True)
class Variant(Configuration):
    """What differs from the base."""

    changes: dict[str, Any] = setting({}, "Of the recipe's changes, section by section.")
    data: dict[str, Any] = setting({}, "Of the recipe's train and validation sections.")
    trainable: tuple[str, ...] = setting((), "Learns in every stage beside what the base names.")
    without: tuple[str, ...] = setting((), "Stages that are left out.")
    stages: dict[str, Any] = setting({}, "Stage → its arguments, over those of the base.")
    trained_as: str = setting("", "The variant whose trained model is evaluated, instead of one of its own.")
    evaluation: Evaluation = Evaluation()


@dataclass(frozen=True)
class Ablation(Configuration):
    """The file."""

    base: dict[str, Any] = setting(MISSING, "A recipe.")
    variants: dict[str, Any] = setting(MISSING, "Name → what differs.")
    scenes: int = setting(MISSING, "Test scenes that are asked about.", at_least=1)
    tasks: tuple[str, ...] = setting(SCORED_TASKS, "What is asked.", choices=SCORED_TASKS)

    def variant(self, name: str) -> Variant:
        """The variant of a name. Raises ConfigError where it is none."""
        return build(Variant, self.variants[name])


def recipe_of(base: Mapping[str, Any], variant: Variant, seed: int) -> Recipe:
    """The recipe that trains a variant. Raises RecipeError where the result is none."""
    changes = dict(base.get("changes", {}))
    for section, values in variant.changes.items():
        # The base's other fields are of its own kind of region extractor.
        changes[section] = values if "kind" in values else {**changes.get(section, {}), **values}
    stages = [{**stage, "trainable": [*stage["trainable"], *variant.trainable],
               "arguments": {**stage.get("arguments", {}), **variant.stages.get(stage["name"], {})}}
              for stage in base["stages"] if stage["name"] not in variant.without]
    data = {name: {**base[name], **variant.data} for name in ("train", "validation")}
    return build(Recipe, {**base, **data, "changes": changes, "stages": stages, "seed": seed})


def evaluate(model: Path, evaluation: Evaluation, scenes: int, tasks: Sequence[str]) -> dict[str, Any]:
    """Ask a trained model; returns the fraction of right answers and the number of questions of every task."""
    config = PipelineConfig(device="cpu", language_format=evaluation.language_format,
                            vision=VisionOptions(backend="torch"))
    config = dataclasses.replace(config, decoding=dataclasses.replace(config.decoding, onnxruntime=False))
    asked = ask_scenes(Pipeline.open(model, config), scenes, 0, evaluation.zero_regions, evaluation.regions,
                       tasks)
    return {"right": {task: fraction(a for a in asked if a.turn.task == task) for task in tasks},
            "questions": {task: sum(a.turn.task == task for a in asked) for task in tasks}}


def run(ablation: Ablation, name: str, seed: int, out: Path) -> dict[str, Any]:
    """Train and evaluate one variant with one seed, or return what an earlier run has found."""
    scores = out / f"{name}-{seed}" / SCORES
    if not scores.is_file():
        variant = ablation.variant(name)
        trained = variant.trained_as or name
        folder = out / f"{trained}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "scenes").exists():
            (out / "scenes").mkdir(exist_ok=True)
            (folder / "scenes").symlink_to(out.resolve() / "scenes")  # rendered once for all
        began = time.process_time()
        model = train(recipe_of(ablation.base, ablation.variant(trained), seed), folder)
        learned = time.process_time()
        found = evaluate(model, variant.evaluation, ablation.scenes, ablation.tasks)
        found |= {"training_cpu_s": learned - began, "evaluation_cpu_s": time.process_time() - learned}
        scores.parent.mkdir(exist_ok=True)
        partial = scores.with_suffix(".partial")
        partial.write_text(json.dumps(found) + "\n", encoding="utf-8")
        partial.replace(scores)
    return json.loads(scores.read_text(encoding="utf-8"))


def summary(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Mean and spread (sample standard deviation, None of one seed) over the seeds, in per cent, for every variant."""
    result = {}
    for name, seeds in runs.items():
        right = {task: [100 * found["right"][task] for found in seeds] for task in seeds[0]["right"]}
        result[name] = {
            "seeds": len(seeds), "questions": seeds[0]["questions"],
            "mean": {task: round(statistics.mean(values), 2) for task, values in right.items()},
            "spread": {task: round(statistics.stdev(values), 2) if len(values) > 1 else None
                       for task, values in right.items()},
            "training_cpu_s": round(statistics.mean(found["training_cpu_s"] for found in seeds), 1)}
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate and write what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--config", type=Path, default=ROOT / "benchmarks" / "ablation.yaml", help="what is compared")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="where the runs lie")
    parser.add_argument("--variants", nargs="+", help="only these (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args(arguments)
    ablation = read_yaml(Ablation, options.config)
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:  # all variants of a seed first: an interrupted ablation compares them all, too
        for name in options.variants or ablation.variants:
            runs.setdefault(name, []).append(run(ablation, name, seed, options.out))
            write_results(options.json, {"machine": machine_facts(), "scenes": str(ablation.scenes),
                                         "variants": summary(runs)})


if __name__ == "__main__":
    main()
