"""Describe the regions of a picture file and answer questions about them, without ROS.

    ros2 run ros_gpt4roi describe kitchen.jpg --boxes 40,60,200,220 310,80,420,260 --ask "What is region 2?"
    ros2 run ros_gpt4roi describe kitchen.jpg --detections detections.yaml --save annotated.png --explain

It is the pipeline of the perception node, with that node's defaults. Without boxes, the whole picture is one region.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from .annotate import annotate
from .configuration import ConfigError, leaves
from .engine import EngineError
from .explain import BLANKS, BlankedVision, components, prompt_text, token_table
from .image_file import ImageFileError, read_image
from .model.checkpoint import CheckpointError
from .model.region_words import RegionWordPrompts
from .paths import find_model
from .region_files import RegionFileError, parse_box, read_detections
from .runtime.pipeline import Pipeline, PipelineConfig
from .runtime.regions import usable_regions
from .runtime.request import Conversation, DescriptionRequest, Question, Refused
from .runtime.types import Answer, Frame, FrameDescriptions, Region, Status
from .runtime.vision_stage import VisionOptions

_ALTERNATIVES = 4  # likeliest tokens shown at each place


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0 where everything was described and answered, 1 where a box was refused or a request ended otherwise, 2 for
        unusable input.
    """
    options = _parser().parse_args(arguments)
    try:
        image = read_image(options.picture)
        regions, refusals = _regions(options, *image.shape[1::-1])
        frame = Frame(image, regions, 0, str(options.picture))
        pipeline = Pipeline.open(find_model(options.model), PipelineConfig(
            device=options.device, language_format=options.language_format,
            adapters=(options.adapter,) if options.adapter else (),
            adapter=options.adapter.resolve().name if options.adapter else "",
            vision=VisionOptions(backend=options.vision_backend)))
    except (ImageFileError, RegionFileError, ConfigError, CheckpointError, EngineError) as error:
        print(f"describe: {error}", file=sys.stderr)
        return 2
    if options.blank == "regions" and isinstance(pipeline.language.prompts, RegionWordPrompts):
        print(f"describe: --blank is regions, expected image: {options.model} reads regions in words", file=sys.stderr)
        return 2
    for refusal in refusals:
        print(f"describe: {refusal}", file=sys.stderr)
    if options.blank:
        pipeline.encoder.vision = BlankedVision(pipeline.encoder.vision, options.blank)
    requests: list[DescriptionRequest | Question] = [DescriptionRequest(frame=frame)]
    conversation = Conversation("", frame)
    requests += [Question(text, conversation=conversation) for text in options.ask]
    report: dict[str, Any] = {"picture": str(options.picture), "size": [frame.image.shape[1], frame.image.shape[0]],
                              "components": components(pipeline), "refused": refusals, "descriptions": [],
                              "answers": []}
    if not options.json and options.explain:
        for name, text in report["components"].items():
            print(f"{name}: {text}")
    for request in requests:
        _run(pipeline, request, _ALTERNATIVES if options.explain else 0)
        entries = _entries(request)
        for entry, sequence in zip(entries, request.sequences):
            if options.explain and request.encoded is not None:
                prompts = pipeline.language.prompts
                entry |= {"prompt": prompt_text(prompts, sequence, request.encoded),
                          "tokens": token_table(prompts.tokenizer, sequence)}
        report["answers" if isinstance(request, Question) else "descriptions"] += entries
        if not options.json:
            _print(entries)
    described = requests[0].result
    assert isinstance(described, FrameDescriptions)
    report["seconds"] = described.timings
    if not options.json and options.explain:
        print(", ".join(f"{stage} {seconds * 1000:.0f} ms" for stage, seconds in described.timings.items()))
    if options.save:
        texts = [(description.region, description.text) for description in described.descriptions]
        texts += [(region, region.label) for region in conversation.frame.regions[len(frame.regions):]]  # found
        picture = cv2.cvtColor(annotate(frame.image, texts), cv2.COLOR_RGB2BGR)
        try:
            written = cv2.imwrite(str(options.save), picture)
        except cv2.error:  # a suffix that OpenCV has no encoder for
            written = False
        if not written:
            print(f"describe: {options.save} could not be written, expected a path that ends in .png or .jpg",
                  file=sys.stderr)
            return 2
    if options.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    return int(bool(refusals) or any(request.result is None or request.result.status is not Status.OK
                                     for request in requests))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="describe", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="an image file, such as a JPEG or PNG")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--boxes", nargs="+", default=[], metavar="X1,Y1,X2,Y2",
                       help="regions in pixels of the picture; X,Y is a point")
    where.add_argument("--detections", type=Path, metavar="FILE",
                       help="regions from JSON or YAML: a list of {box, segmentation, id, label, score}, or a "
                            "vision_msgs/Detection2DArray as `ros2 topic echo --once` prints it")
    parser.add_argument("--ask", action="append", default=[], metavar="TEXT",
                        help="a question; several are the rounds of one conversation")
    parser.add_argument("--model", default="tabletop", help="checkpoint folder or name of an installed model "
                                                            "(%(default)s)")
    parser.add_argument("--adapter", type=Path, metavar="FOLDER", help="LoRA folder that is used with the model")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the picture with boxes and descriptions")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--explain", action="store_true",
                        help="show prompts, what runs each part, stage times, token probabilities and alternatives")
    parser.add_argument("--blank", choices=sorted(BLANKS), help="set image tokens or region embeddings to zero")
    settings = {item.name: item for item in leaves(PipelineConfig)}
    for option, name in (("--device", "device"), ("--vision-backend", "vision.backend"),
                         ("--language-format", "language_format")):
        item = settings[name]
        parser.add_argument(option, default=item.default, choices=item.choices or None,
                            help=f"{item.description} (%(default)s)")
    return parser


def _regions(options: argparse.Namespace, width: int, height: int) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """The regions, and why others are refused."""
    given = [parse_box(text) for text in options.boxes] or [Region("1", (0.0, 0.0, float(width), float(height)))]
    if options.detections is not None:
        given = read_detections(options.detections)
    regions, refusals = usable_regions(given, width, height)
    if refusals and not regions:
        raise RegionFileError("; ".join(refusals))
    return regions, refusals


def _run(pipeline: Pipeline, request: DescriptionRequest | Question, alternatives: int) -> None:
    try:
        pipeline.begin(request)
    except Refused as refusal:
        request.result = request.refusal(refusal.status, str(refusal))
    for sequence in request.sequences:
        sequence.top_k = alternatives
    while request.result is None:
        pipeline.step()


def _entries(request: DescriptionRequest | Question) -> list[dict[str, Any]]:
    """What came of a request, as JSON: an entry for each text."""
    result = request.result
    if isinstance(request, Question):
        assert isinstance(result, Answer)
        return [{"question": request.text, "text": result.text, "status": result.status.name, "error": result.error,
                 "region_ids": list(result.region_ids), "evidence_ids": list(result.evidence_ids),
                 "regions": [{"id": region.id, "box": list(region.box)} for region in result.regions],
                 "confidence": result.confidence}]
    assert isinstance(result, FrameDescriptions)
    entries = [{"id": description.region.id, "box": list(description.region.box), "text": description.text,
                "confidence": description.confidence} for description in result.descriptions]
    entries += [{"id": region.id, "box": list(region.box), "error": "left out: more regions than the model takes"}
                for region in result.omitted]
    return entries or [{"error": result.error, "status": result.status.name}]


def _print(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        title = f"? {entry['question']}" if "question" in entry else f"region {entry.get('id', '–')}"
        text = entry.get("text", "")
        if entry.get("error"):
            text = f"{text} [{entry.get('status', '')}: {entry['error']}]".strip()
        confidence = f"  ({entry['confidence']:.2f})" if "confidence" in entry else ""
        print(f"{title}\n  {text}{confidence}")
        if "prompt" in entry:
            print("  prompt: " + entry["prompt"].replace("\n", "\n          "))
            for place in entry["tokens"]:
                others = "  ".join(f"{text!r} {probability:.3f}" for text, probability in place["alternatives"])
                print(f"    {place['text']!r:>16} {place['probability']:.3f}   | {others}")


if __name__ == "__main__":
    sys.exit(main())
