"""The language stage: our decode against the published procedure, against llama.cpp and against the memory's speed.

    python -m benchmarks.language_stage --json benchmarks/results/language_stage.json

Whatever is compared takes turns on the same weights and inputs; medians. Models: "random", a Llama of 0.48 B
parameters, and the embedded ones, "tabletop" and "household". Both sides of a comparison with llama.cpp write exactly
so many tokens. The published procedure's texts are compared for every region; timed are PUBLISHED_REGIONS of its
conversations, which all cost the same, for all.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.common import compare, machine_facts, seconds, write_results
from benchmarks.language_models import (
    describe,
    in_format,
    noise_frame,
    open_pipeline,
    published_procedure,
    random_model,
)
from ros_gpt4roi.model.checkpoint import LoadedModel, load_checkpoint
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.language_format import FORMATS
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.quantised_linear import Int8DynamicLinear
from ros_gpt4roi.runtime.request import DescriptionRequest, Question, Sequence
from ros_gpt4roi.runtime.scheduler import Scheduler
from ros_gpt4roi.runtime.threads import fit_threads, use_all_threads
from ros_gpt4roi.runtime.types import Frame
from ros_gpt4roi.sim.worlds import RENDERERS

try:
    from benchmarks import llama_cpp_peer
except ImportError as error:
    llama_cpp_peer, MISSING = None, f"left out: {error}"  # type: ignore[assignment]

BATCHES = (1, 2, 4, 8, 16)
PARTS = ("published", "decode", "speculation", "first_request", "llama_cpp")
PUBLISHED_REGIONS = 1
FITTED = "int8"  # the format that the number of threads is measured with
TIMED_FORMATS = ("fp32", "bf16", "int8", "int8-dynamic", "int4")
QUESTION, QUESTION_INSIDE = "What is region 1?", "What is <region1>?"
LIMIT_S = 600.0
SMALL = 64_000_000  # weights
ALL_THREADS = torch.get_num_threads()


def main() -> None:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--models", nargs="+", default=["random", "tabletop"], choices=["random", *RENDERERS])
    parser.add_argument("--formats", nargs="+", default=list(TIMED_FORMATS), choices=FORMATS)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--regions", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of a text")
    parser.add_argument("--rounds", type=int, default=2,
                        help="timed calls of each variant; five times as many of a small model")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "command": "python -m benchmarks.language_stage " + " ".join(sys.argv[1:]),
        "machine": {**machine_facts(), "transformers": transformers.__version__,
                    "llama_cpp_python": llama_cpp_peer.VERSION if llama_cpp_peer else MISSING,
                    "read_bytes_per_s": read_speed()}}
    with torch.inference_mode():
        for name in options.models:
            loaded = random_model() if name == "random" else load_checkpoint(find_model(name))
            results[name] = measure(loaded, options, results["machine"]["read_bytes_per_s"])
            prefix = "" if name == options.models[0] else f"{name}_"
            results |= {prefix + key: results[name][key] for key in results[name] if key.startswith("vs_")}
    write_results(options.json, results)


def measure(loaded: LoadedModel, options: argparse.Namespace, read_bytes: float) -> dict[str, Any]:
    """The parts asked for, about one model of fp32 weights."""
    models = {number_format: in_format(loaded, number_format) for number_format in options.formats}
    few_bits = {name: model for name, model in models.items() if name != "fp32"} or models
    frame, one = noise_frame(options.regions), models.get("int8-dynamic", models[options.formats[-1]])
    use_all_threads()
    pipeline = open_pipeline(models.get(FITTED, one), options.tokens)
    threads = fit_threads(lambda: describe(pipeline, frame))  # as the node does
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "published": lambda: against_published(models, loaded, frame, options),
        "decode": lambda: {name: growth(model, read_bytes) for name, model in few_bits.items()},
        "speculation": lambda: speculation(one, frame, options),
        "first_request": lambda: first_request(one, frame, options),
        "llama_cpp": lambda: against_llama_cpp(few_bits, loaded, frame, options)}
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in loaded.model.language.parameters()),
                             "formats": options.formats, "threads": threads}
    for part in options.parts:
        if part == "llama_cpp" and llama_cpp_peer is None:
            continue
        began = time.perf_counter()
        found[part] = parts[part]()
        # What is there if a later part is interrupted.
        print(f"{part}, {time.perf_counter() - began:.0f} s: {found[part]}", file=sys.stderr, flush=True)
    # Of the fastest format that gives the same text.
    compared = [figures["speed"] for figures in found.get("published", {}).values() if figures["same_text"] == 1]
    found |= {"vs_published": max(compared)} if compared else {}
    found |= {f"vs_llama_cpp_{load}": figures["speed"] for load, figures in found.get("llama_cpp", {}).items()
              if load in ("batch", "single")}
    return found


def timing(loaded: LoadedModel, options: argparse.Namespace) -> dict[str, Any]:
    """How `compare` measures: calls of milliseconds in many rounds, settled; those of seconds as often as asked."""
    if sum(p.numel() for p in loaded.model.language.parameters()) > SMALL:
        return {"rounds": options.rounds, "warm_up": 0}
    return {"rounds": 5 * options.rounds, "warm_up": 2, "settle": True}


def against_published(models: dict[str, LoadedModel], loaded: LoadedModel, frame: Frame,
                      options: argparse.Namespace) -> dict[str, Any]:
    """Whole frames, image to texts; the published procedure in fp32, ours in every format."""
    everywhere = range(1, options.regions + 1)
    pipelines = {name: open_pipeline(model, options.tokens) for name, model in models.items()}
    expected = published_procedure(loaded, frame, everywhere, options.tokens)
    texts = {name: describe(pipeline, frame) for name, pipeline in pipelines.items()}
    same = {name: sum(map(eq, mine, expected)) / len(expected) for name, mine in texts.items()}
    if same.get("fp32", 1) < 1:
        raise SystemExit(f"fp32 texts differ from the published procedure's: {same['fp32']:.0%} are the same")
    places = everywhere[:PUBLISHED_REGIONS]
    times = compare({name: lambda p=pipeline: describe(p, frame) for name, pipeline in pipelines.items()}
                    | {"published": lambda: published_procedure(loaded, frame, places, options.tokens)},
                    **timing(loaded, options))
    published = times["published"] * options.regions / len(places)
    return {name: {"seconds": times[name], "regions_per_s": options.regions / times[name],
                   "tokens": sum(map(len, texts[name])), "same_text": same[name], "published_seconds": published,
                   "speed": published / times[name]} for name in pipelines}


def growth(loaded: LoadedModel, read_bytes: float) -> dict[str, Any]:
    """Decoding alone: tokens a second by the number of rows, and at one row what the memory would allow."""
    found: dict[str, Any] = {"weight_bytes": weight_bytes(loaded.model.language), "tokens_per_s": {}}
    for rows in BATCHES:
        pipeline = open_pipeline(loaded, 16)
        generator = pipeline.language.generator
        generator.stop_ids = frozenset()
        frame = noise_frame(rows)
        generator.add(sequences(pipeline, frame, 16))
        generator.step()  # the prompts, and the first step
        times = []
        while generator.live_rows == rows:
            times.append(seconds(generator.step))
        found["tokens_per_s"][rows] = rows / statistics.median(times)
    found["ceiling_tokens_per_s"] = read_bytes / found["weight_bytes"]
    found["of_ceiling"] = found["tokens_per_s"][1] / found["ceiling_tokens_per_s"]
    return found


_fresh = itertools.count(1 << 32)  # names of vision outputs that no cache knows


def sequences(pipeline: Pipeline, frame: Frame, tokens: int, questions: list[str] | None = None) -> list[Sequence]:
    """Questions (None: a description of every region) as the generator gets them, with nothing but the vision given."""
    if questions is None:
        question = pipeline.model_config.prompt.describe
        questions = [question.replace("{region}", f"<region{i + 1}>") for i in range(len(frame.regions))]
    vision, key = pipeline.encoder.encode(frame).vision, next(_fresh)
    return [pipeline.language.sequence([(text, None)], vision, key, tokens) for text in questions]


def speculation(loaded: LoadedModel, frame: Frame, options: argparse.Namespace) -> dict[str, float]:
    """The same frame again, with its last texts as drafts and without."""
    plain, drafting = (open_pipeline(loaded, options.tokens, draft_tokens=n) for n in (0, 8))
    expected = describe(plain, frame)
    if describe(drafting, frame) != expected or describe(drafting, frame) != expected:
        print("note: drafts changed a text; the number format's rounding depends on the batch")
    times = compare({"plain": lambda: describe(plain, frame), "drafting": lambda: describe(drafting, frame)},
                    **timing(loaded, options))
    counters = drafting.language.generator.counters
    return {**times, "speed": times["plain"] / times["drafting"],
            "accepted": counters["accepted_draft_tokens"] / max(1, counters["draft_tokens"])}


def first_request(loaded: LoadedModel, frame: Frame, options: argparse.Namespace) -> dict[str, Any]:
    """The first frame and the first question after a warm-up, on the scheduler's worker, over the median of later."""
    pipeline = open_pipeline(loaded, options.tokens)
    warm_up = seconds(pipeline.warm_up)
    scheduler = Scheduler(pipeline)
    scheduler.start()
    found: dict[str, Any] = {"warm_up_s": warm_up}

    def serve(request: Question | DescriptionRequest) -> None:
        scheduler.submit(request)
        request.future.result(LIMIT_S)

    requests = {"frame": lambda: serve(DescriptionRequest(frame=dataclasses.replace(frame))),
                "question": lambda: serve(Question(QUESTION, frame=dataclasses.replace(frame)))}
    try:
        for name, request in requests.items():
            first, *later = [seconds(request) for _ in range(1 + 2 * options.rounds)]
            found[name] = {"first_s": first, "median_s": statistics.median(later),
                           "first_over_median": first / statistics.median(later)}
    finally:
        scheduler.stop()
    return found


def against_llama_cpp(models: dict[str, LoadedModel], loaded: LoadedModel, frame: Frame,
                      options: argparse.Namespace) -> dict[str, Any]:
    """Language stage only, vision given: one prefix and `regions` suffixes, then one question, so many tokens each.

    Both sides with one thread and with all: the best of either counts.
    """
    threads_tried, fitted = sorted({1, ALL_THREADS}), torch.get_num_threads()
    pipelines = {f"{name}, {threads} threads": (open_pipeline(model, options.tokens), threads)
                 for name, model in models.items() for threads in threads_tried}
    for pipeline, _ in pipelines.values():
        pipeline.language.generator.stop_ids = frozenset()
    first, _ = next(iter(pipelines.values()))
    prompts = [s.prompt.ids.tolist() for s in sequences(first, frame, 1)]
    question = sequences(first, frame, 1, [QUESTION_INSIDE])[0].prompt.ids.tolist()
    shared = next(i for i, ids in enumerate(zip(*prompts)) if len(set(ids)) > 1)
    rows, longest = len(prompts), max(map(len, prompts))
    found: dict[str, Any] = {"tokens": {"prefix": shared, "suffix": longest - shared, "text": options.tokens}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        llama_cpp_peer.write_gguf(loaded.model.language, path / "f16.gguf")
        peers = {}
        for name in llama_cpp_peer.FORMATS:
            llama_cpp_peer.quantise(path / "f16.gguf", path / f"{name}.gguf", name)
            for threads in threads_tried:
                peers[f"{name}, {threads} threads"] = llama_cpp_peer.LlamaCpp(
                    path / f"{name}.gguf", threads, rows, shared + rows * (longest - shared + options.tokens))
        found["same_next_token"] = {name: agreement(peer, loaded, prompts[0]) for name, peer in peers.items()}
        loads = {
            "batch": {name: lambda p=p, t=t: decode(p, sequences(p, frame, options.tokens), t)
                      for name, (p, t) in pipelines.items()}
            | {f"llama.cpp {name}": lambda p=p: p.texts(prompts[0][:shared], [ids[shared:] for ids in prompts],
                                                        options.tokens) for name, p in peers.items()},
            "single": {name: lambda p=p, t=t: decode(p, sequences(p, frame, options.tokens, [QUESTION_INSIDE]), t)
                       for name, (p, t) in pipelines.items()}
            | {f"llama.cpp {name}": lambda p=p: p.texts([], [question], options.tokens) for name, p in peers.items()}}
        for load, variants in loads.items():
            times = compare(variants, **timing(loaded, options))
            ours = min((times[name], name) for name in pipelines)
            theirs = min((times[name], name) for name in times if name not in pipelines)
            found[load] = {"seconds": times, "ours": ours[1], "theirs": theirs[1], "speed": theirs[0] / ours[0]}
        for peer in peers.values():
            peer.close()
    torch.set_num_threads(fitted)
    return found


def decode(pipeline: Pipeline, texts: list[Sequence], threads: int) -> None:
    """Write texts to their ends with so many threads."""
    torch.set_num_threads(threads)
    pipeline.language.generator.run(texts)


def agreement(peer: Any, loaded: LoadedModel, ids: list[int]) -> float:
    """At how many places of a text the converted model's next token is that of the fp32 model."""
    ours = loaded.model.language(torch.tensor([ids]), use_cache=False).logits[0].argmax(-1).tolist()
    same = float(np.mean([a == b for a, b in zip(ours, peer.every_next(ids))]))
    if same < 0.2:
        raise SystemExit(f"llama.cpp continues {same:.0%} of the places as we do: its file is not the same model")
    return same


def weight_bytes(language: torch.nn.Module) -> int:
    """Bytes of weights that a token reads: of every linear layer, in its format; of embeddings one row, not counted."""
    total = 0
    for module in language.modules():
        if isinstance(module, torch.nn.Linear):
            total += int(module.weight.nbytes)
        elif isinstance(module, Int8DynamicLinear):
            total += int(module.weight_bytes + module.scale.nbytes)
        else:
            total += sum(value.nbytes for name, value in module.named_buffers(recurse=False)
                         if name in ("weight", "scale", "packed", "scale_middle"))
    return total


def read_speed() -> float:
    """Bytes a second that all threads together read from memory."""
    values = torch.ones(1 << 28)
    values.sum()
    return values.nbytes / min(seconds(values.sum) for _ in range(5))


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"took {time.perf_counter() - began:.0f} s", file=sys.stderr)
