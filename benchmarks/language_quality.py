"""What each number format of the language model costs in quality, and how often a kept description is wrong.

    python -m benchmarks.language_quality --json benchmarks/results/language_quality.json

Test scenes of the tabletop, which no training sees; greedy. For each format: answers equal to fp32's word for word,
right answers (training's own scoring), loss on the true answers, and the time of a frame and of a question. The format
to use is the fastest that loses less than ALLOWED points of right answers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import compare, machine_facts, write_results
from benchmarks.language_models import describe, in_format, open_pipeline
from ros_gpt4roi.model.checkpoint import LoadedModel, load_checkpoint
from ros_gpt4roi.runtime.awq import record_inputs, scale_for_int4
from ros_gpt4roi.runtime.language_format import FORMATS
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.threads import fit_threads
from ros_gpt4roi.runtime.types import Frame, Region, Status
from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.tabletop.conversations import ask
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import Scene
from ros_gpt4roi.sim.tabletop.scoring import score
from ros_gpt4roi.sim.text_rounds import TextRound
from ros_gpt4roi.sim.worlds import region_id
from training.evaluation.model import open_conversation
from training.evaluation.tabletop import questions

Asked = tuple[Frame, Sequence[tuple[TextRound, ...]]]  # a frame, and conversations about it
SCALED, CALIBRATION = "int4, scaled", 4  # scenes
ALLOWED = 0.5  # points of right answers, in per cent
AS_GOOD = 1.05  # of the fastest's time
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1, "int8-dynamic": 1, "int4": 0.5}
TOKENS = 80
TIMED = 8  # scenes at most that formats are timed on, in turns


def main() -> None:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--model", type=Path, default=Path("models/tabletop"), help="checkpoint folder")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1000, help="of the scenes and questions")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--views", type=int, default=60, help="positions of the moving camera, for kept descriptions")
    parser.add_argument("--moving-scenes", type=int, default=4)
    parser.add_argument("--rate", type=float, default=5.0, help="frames a second of the moving camera")
    options = parser.parse_args()
    loaded = load_checkpoint(options.model)
    results: dict[str, Any] = {"command": "python -m benchmarks.language_quality " + " ".join(sys.argv[1:]),
                               "machine": machine_facts()}
    with torch.inference_mode(), TabletopRenderer() as renderer:
        results["formats"] = compare_formats(
            loaded, conversations(renderer, "test", options.seed, options.scenes), options.formats,
            conversations(renderer, "train", options.seed, CALIBRATION))
        results["reuse"] = kept_descriptions(loaded, renderer, options)
    results["default"] = choose(results["formats"])
    write_results(options.json, results)


def conversations(renderer: TabletopRenderer, split: str, seed: int, count: int) -> list[Asked]:
    """The questions about so many scenes."""
    found: list[Asked] = []
    for index in range(count):
        rng, scene = np.random.default_rng([seed, index]), renderer.render(split, seed, index)
        if scene.objects:
            scene = permuted(scene, rng)
            found.append((frame_of(scene), questions(scene, rng)))
    return found


def compare_formats(loaded: LoadedModel, asked: Sequence[Asked], formats: Sequence[str],
                    calibration: Sequence[Asked]) -> dict[str, dict[str, float]]:
    """Measure every format's speed, its right answers and how many of them are fp32's.

    fp32 is measured whether asked for or not: the others are compared with it. int4 also as `training.deploy` stores
    it, scaled by what the layers are given in the conversations of `calibration`.
    """
    models = {name: in_format(loaded, name) for name in dict.fromkeys(("fp32", *formats))}
    if "int4" in formats:
        scaled = in_format(loaded, "fp32")
        scale_for_int4(scaled.model.language, record_inputs(scaled.model.language, lambda: loss(scaled, calibration)))
        models[SCALED] = in_format(scaled, "int4")
    pipelines = {name: open_pipeline(model, TOKENS) for name, model in models.items()}
    fit_threads(lambda: describe(pipelines["fp32"], asked[0][0]))  # as the node does
    said = {name: [answers(pipeline, frame, turns) for frame, turns in asked] for name, pipeline in pipelines.items()}
    timed = [frame for frame, _ in asked[:TIMED]]

    def over_all(request: Callable[[Pipeline, Frame], object], pipeline: Pipeline) -> None:
        for frame in timed:
            request(pipeline, frame)

    frame_s, question_s = (
        compare({name: partial(over_all, request, p) for name, p in pipelines.items()}, 10, 1)
        for request in (describe, single))
    found = {}
    for name in pipelines:
        pairs = [(turns[-1].expected, text) for (_, many), texts in zip(asked, said[name])
                 for turns, text in zip(many, texts)]
        same = [a == b for mine, theirs in zip(said[name], said["fp32"]) for a, b in zip(mine, theirs)]
        found[name] = {
            "questions": len(pairs), "right_percent": 100 * float(np.mean([score(*pair) for pair in pairs])),
            "same_as_fp32_percent": 100 * float(np.mean(same)), "loss": loss(models[name], asked),
            "frame_s": frame_s[name] / len(timed), "question_s": question_s[name] / len(timed)}
    for figures in found.values():
        figures["points_lost"] = found["fp32"]["right_percent"] - figures["right_percent"]
    return found


def frame_of(scene: Scene, stamp_ns: int = 0) -> Frame:
    """A scene as the simulated camera publishes it."""
    return Frame(scene.image, tuple(Region(region_id(item), tuple(map(float, item.box)))
                                    for item in scene.objects), stamp_ns, "camera")


def answers(pipeline: Pipeline, frame: Frame, asked: Sequence[tuple[TextRound, ...]]) -> list[str]:
    """All questions about a scene at once, each with the true history it needs; the model's own words."""
    return pipeline.language.answers(list(map(open_conversation, asked)), pipeline.encoder.encode(frame).vision, TOKENS)


def single(pipeline: Pipeline, frame: Frame) -> None:
    """One question about a frame that was not seen before."""
    answer = pipeline.ask(Conversation("", replace(frame)), Question(f"What is region {frame.regions[0].id}?", ""))
    if answer.status is not Status.OK:
        raise SystemExit(f"a question failed: {answer.error}")


def loss(loaded: LoadedModel, asked: Sequence[Asked]) -> float:
    """Mean cross-entropy of a token of the true answers, in nats."""
    total, count, pipeline = 0.0, 0, open_pipeline(loaded, 1)
    for frame, many in asked:
        vision = pipeline.encoder.encode(frame).vision
        for turns in many:
            prompt = loaded.prompts.encode([(t.question, t.answer) for t in turns], len(frame.regions),
                                           list_regions=True)
            ids, labels = torch.tensor([prompt.input_ids]), torch.tensor(prompt.labels)
            embeddings = loaded.model.embed(ids, vision, torch.tensor([prompt.region_index]))
            logits = loaded.model.language(inputs_embeds=embeddings, use_cache=False).logits[0].float()
            total += float(torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum"))
            count += int((labels[1:] != -100).sum())
    return total / count


def choose(formats: dict[str, dict[str, float]]) -> str:
    """Find the fastest format that loses less than ALLOWED points, and of formats as fast as that the smallest.

    Counted is the time of a frame and a question together.
    """
    good = {name: figures["frame_s"] + figures["question_s"] for name, figures in formats.items()
            if figures["points_lost"] < ALLOWED and name in FORMATS}
    near = [name for name, taken in good.items() if taken <= AS_GOOD * min(good.values())]
    return min(near, key=lambda name: (WEIGHT_BYTES[name], good[name]))


def kept_descriptions(loaded: LoadedModel, renderer: TabletopRenderer, options: argparse.Namespace) -> dict[str, float]:
    """Let a camera circle the table and keep texts.

    Returns:
        How many decodes that saves, and how often a kept text is wrong where one decoded anew is right.
    """
    config = replace(PipelineConfig(), language_format="fp32")
    keeping, fresh = Pipeline(loaded, config), Pipeline(loaded, replace(config, reuse_distance=0.0))
    texts = kept = kept_wrong = spoilt = fresh_wrong = 0
    for index in range(options.moving_scenes):
        keeping.reset()
        for step in range(options.views):
            scene = renderer.render_view("test", options.seed, index, step)
            frame = frame_of(scene, round(step / options.rate * 1e9))
            if not scene.objects:
                continue
            pairs = zip(keeping.describe(frame).descriptions, fresh.describe(replace(frame)).descriptions, strict=True)
            for place, (mine, anew) in enumerate(pairs):
                others = frozenset(range(len(scene.objects))) - {place}
                turn = ask(scene, "describe", np.random.default_rng(0), regions_only=True, described=others)[-1]
                wrong, wrong_anew = (not score(turn.expected, text.text) for text in (mine, anew))
                texts += 1
                fresh_wrong += wrong_anew
                kept += mine.reused
                kept_wrong += mine.reused and wrong
                spoilt += mine.reused and wrong and not wrong_anew
    return {"distance": config.reuse_distance, "max_age_s": config.reuse_age_s, "frames_per_s": options.rate,
            "texts": texts, "decodes_saved_percent": 100 * kept / texts,
            "kept_wrong_percent": 100 * kept_wrong / max(1, kept), "fresh_wrong_percent": 100 * fresh_wrong / texts,
            "kept_wrong_fresh_right_percent": 100 * spoilt / max(1, kept)}


if __name__ == "__main__":
    main()
