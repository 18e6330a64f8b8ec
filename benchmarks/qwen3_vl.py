"""Qwen3-VL through this pipeline, by transformers' own generate and by llama.cpp: 8 regions and a question.

    python -m benchmarks.qwen3_vl --json benchmarks/results/qwen3_vl.json

The picture has 640×480 pixels. The model has the shape of Qwen3-VL-2B, of fewer layers, and random weights: speed
does not depend on them. All sides get the same picture and the same tokens, and write exactly so many. Their texts
are compared before anything is timed; what is timed takes turns, and medians are told: on one thread of CPU time, which
other programs do not add to. `transformers, one by one` is a
chat loop, a region after the other; `transformers, batch` gets all prompts at once, each with its picture. llama.cpp,
where it is installed (`qwen3_vl_llama_cpp`), computes the prefix once and writes all texts together, as we do. Last,
the time for N regions of one picture over N times that for one. Memory is what a process of each side's own held at
most.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ros_gpt4roi.model.qwen3_vl import PixelBudget
from ros_gpt4roi.runtime.language_format import FORMATS
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.request import Conversation, DescriptionRequest, Question
from ros_gpt4roi.runtime.types import Frame, Region
from ros_gpt4roi.runtime.vision_stage import VisionOptions

from .common import machine_facts, write_results
from .loading import write_model

try:
    from . import llama_cpp_peer, qwen3_vl_llama_cpp
except ImportError as error:
    llama_cpp_peer, MISSING = None, f"left out: {error}"  # type: ignore[assignment]

COUNTS = (1, 8, 32)  # regions of one picture
REGIONS = 8
QUESTION = "What is left of region 1?"
_LLAMA_CPP_CONTEXT = 4096  # tokens of all rows together
_PEAK_TOKENS = 2  # of each text where memory alone is looked at: its most is that of the prompts
_PADDING = 0  # masked: any token
SIDES = ("ours", "transformers, one by one", "transformers, batch")
LLAMA_CPP = "llama.cpp "  # and a format
# One thread's own time is that of an idle machine, whatever else runs.
CLOCK = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
PARTS = ("compared", "together", "most_bytes")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qwen3_vl", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--layers", type=int, default=4, help="of the decoder; 2B has 28 (default: %(default)s)")
    parser.add_argument("--encoder-layers", type=int, default=4, help="2B has 24 (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=24, help="of each text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each side (default: %(default)s)")
    parser.add_argument("--formats", nargs="+", default=["fp32", "int8"], choices=FORMATS,
                        help="of our language model (default: fp32 int8)")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS,
                        help="what is measured; figures of others stay in the file")
    parser.add_argument("--narrow", action="store_true", help="a tiny model, to try the command")
    parser.add_argument("--peak", nargs=3, metavar=("SIDE", "MODEL", "INPUTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        with torch.inference_mode():
            side, model, inputs = options.peak
            print(most_bytes(side, model, inputs, options.tokens))
        return
    results: dict[str, Any] = {"machine": {
        **machine_facts(), "transformers": transformers.__version__,
        "llama_cpp_python": llama_cpp_peer.VERSION if llama_cpp_peer else MISSING}}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        folder, given = Path(scratch, "model"), Path(scratch, "inputs.json")
        results["parameters"] = write_model(folder, options.layers, options.encoder_layers, options.narrow)
        first = open_ours(folder, options.formats[0], options.tokens)
        given.write_text(json.dumps(model_inputs(first)), encoding="utf-8")
        if llama_cpp_peer is not None:
            write_llama_cpp(folder)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "compared": lambda: measure(folder, given, options),
            "together": lambda: {name: together(open_ours(folder, name, options.tokens), options.rounds)
                                 for name in options.formats},
            "most_bytes": lambda: {_shown(side): _peak(side, folder, given)
                                   for side in (*options.formats, *SIDES[1:], *llama_cpp_sides())}}
        for part in options.parts:
            results[part] = parts[part]()
    if options.json is not None and options.json.exists():
        results = json.loads(options.json.read_text(encoding="utf-8")) | results
    command = "python -m benchmarks.qwen3_vl " + " ".join(sys.argv[1:])
    for facts, fact in (("commands", command), ("clocks", CLOCK.__name__)):
        results[facts] = {**results.get(facts, {}), **dict.fromkeys(options.parts, fact)}
    write_results(options.json, results)


def llama_cpp_sides() -> tuple[str, ...]:
    """llama.cpp in its number formats, where it is installed."""
    return () if llama_cpp_peer is None else tuple(LLAMA_CPP + name for name in ("F16", *llama_cpp_peer.FORMATS))


def _shown(side: str) -> str:
    return f"ours, {side}" if side in FORMATS else side


def picture(regions: int) -> Frame:
    """A picture that no cache knows, with so many regions in a grid over it."""
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    boxes = [(80.0 * (i % 8), 120.0 * (i // 8), 80.0 * (i % 8) + 70, 120.0 * (i // 8) + 100) for i in range(regions)]
    return Frame(pixels, tuple(Region(str(i), box) for i, box in enumerate(boxes, 1)), 0, "camera")


def open_ours(folder: Path, number_format: str, tokens: int) -> Pipeline:
    """This pipeline, which writes exactly so many tokens."""
    pipeline = Pipeline.open(folder, PipelineConfig(
        device="cpu", language_format=number_format, description_tokens=tokens, answer_tokens=tokens,
        reuse_distance=0.0, vision=VisionOptions("torch")))
    pipeline.language.generator.stop_ids = frozenset()
    return pipeline


class Timed:
    """When a load's first and last tokens came, in seconds from its beginning, and its texts as token ids.

    Attributes:
        encoder: Seconds that the encoder has taken of it.
    """

    def __init__(self) -> None:
        self.encoder, self.first, self.total, self.texts = 0.0, 0.0, 0.0, list[list[int]]()


def run_ours(pipeline: Pipeline, regions: int, question: str = "") -> Timed:
    """Descriptions of all regions of a new picture, or one answer about it."""
    timed, frame, began = Timed(), picture(regions), CLOCK()
    request: Question | DescriptionRequest = DescriptionRequest(frame=frame)
    if question:
        request = Question(question)
        request.conversation = Conversation("", frame)
    pipeline.begin(request)
    timed.encoder = CLOCK() - began
    while request.result is None:
        pipeline.step()
        if not timed.first and all(sequence.generated for sequence in request.sequences):
            timed.first = CLOCK() - began
    timed.total = CLOCK() - began
    timed.texts = [sequence.generated for sequence in request.sequences]
    return timed


class Theirs:
    """transformers' model and generate, in fp32.

    Args:
        folder: The model's.
        inputs: File with what `model_inputs` gives.
        tokens: Of each text.
    """

    def __init__(self, folder: Path, inputs: Path, tokens: int):
        from transformers import Qwen3VLForConditionalGeneration
        from transformers.models.qwen2_vl import Qwen2VLImageProcessor

        given = json.loads(inputs.read_text(encoding="utf-8"))
        self._processor = Qwen2VLImageProcessor(**given["processor"])
        self._model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self._model.generation_config.eos_token_id = None
        self._encoder_began = self._encoder_s = 0.0
        self._model.model.visual.register_forward_pre_hook(self._before_encoder)
        self._model.model.visual.register_forward_hook(self._after_encoder)
        self._tokens, self._never, self.mark, self.prompts = tokens, given["never"], given["mark"], given["prompts"]

    def _before_encoder(self, *_: Any) -> None:
        self._encoder_began = CLOCK()

    def _after_encoder(self, *_: Any) -> None:
        self._encoder_s += CLOCK() - self._encoder_began

    def run(self, load: str, together: bool) -> Timed:
        """A load's prompts, one after the other or at once. load: "regions" or "question"."""
        timed, prompts, began = Timed(), self.prompts[load], CLOCK()
        arrived: list[float] = []
        self._encoder_s = 0.0

        def arrive(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            arrived.append(CLOCK() - began)
            return torch.zeros(len(ids), dtype=torch.bool)

        for batch in [prompts] if together else [[prompt] for prompt in prompts]:
            arrived.clear()
            made = self._generate(batch, arrive)
            timed.first = arrived[0]
            timed.texts += made
        timed.total, timed.encoder = CLOCK() - began, self._encoder_s
        return timed

    def _generate(self, prompts: Sequence[list[int]], arrive: Callable[..., torch.Tensor]) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[_PADDING] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        seen = self._processor(images=[picture(0).image] * len(prompts), return_tensors="pt")
        made = self._model.generate(
            input_ids=ids, attention_mask=mask, **seen, do_sample=False, max_new_tokens=self._tokens,
            mm_token_type_ids=(ids == self._model.config.image_token_id).int() * mask, pad_token_id=_PADDING,
            suppress_tokens=self._never, stopping_criteria=[arrive])
        return made[:, longest:].tolist()


def model_inputs(ours: Pipeline) -> dict[str, Any]:
    """What transformers needs to be asked the same, as JSON takes it."""
    sizes = ours.model_config.preprocess
    assert isinstance(sizes, PixelBudget)
    processor = {"patch_size": sizes.patch, "merge_size": sizes.merge, "image_mean": sizes.mean,
                 "image_std": sizes.std, "size": {"shortest_edge": sizes.least, "longest_edge": sizes.most}}
    mark = ours.language.prompts.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return {"processor": processor, "mark": mark, "never": ours.language.prompts.never,
            "prompts": {load: _prompts(ours, load) for load in ("regions", "question")}}


def _prompts(ours: Pipeline, load: str) -> list[list[int]]:
    """Token ids of the prompts that our pipeline makes."""
    request: Question | DescriptionRequest = DescriptionRequest(frame=picture(REGIONS))
    if load == "question":
        request = Question(QUESTION)
        request.conversation = Conversation("", picture(REGIONS))
    ours.begin(request)
    found = [sequence.prompt.ids.tolist() for sequence in request.sequences]
    while request.result is None:
        ours.step()
    return found


def write_llama_cpp(folder: Path) -> None:
    """Write a model's files for llama.cpp beside its own."""
    qwen3_vl_llama_cpp.write_gguf_pair(folder, folder / "F16.gguf", folder / "encoder.gguf")
    for name in llama_cpp_peer.FORMATS:
        llama_cpp_peer.quantise(folder / "F16.gguf", folder / f"{name}.gguf", name)


def open_llama_cpp(side: str, folder: Path, inputs: Path) -> qwen3_vl_llama_cpp.Qwen3VL:
    """llama.cpp with the files that `write_llama_cpp` wrote. side: of `llama_cpp_sides`."""
    never = json.loads(inputs.read_text(encoding="utf-8"))["never"]
    return qwen3_vl_llama_cpp.Qwen3VL(folder / f"{side.removeprefix(LLAMA_CPP)}.gguf", folder / "encoder.gguf",
                                      torch.get_num_threads(), REGIONS, _LLAMA_CPP_CONTEXT, never, CLOCK)


def run_llama_cpp(peer: qwen3_vl_llama_cpp.Qwen3VL, prompts: Sequence[Sequence[int]], mark: int, tokens: int) -> Timed:
    """All prompts together."""
    timed, began = Timed(), CLOCK()

    def arrive() -> None:
        timed.first = CLOCK() - began

    timed.texts = peer.texts_about(picture(0).image, prompts, mark, tokens, arrive)
    timed.total, timed.encoder = CLOCK() - began, peer.encoder_s
    return timed


def measure(folder: Path, inputs: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both loads on all sides; the question comes first, once untimed, so that all weights have been used."""
    ours = {_shown(name): open_ours(folder, name, options.tokens) for name in options.formats}
    theirs = Theirs(folder, inputs, options.tokens)
    peers = {side: open_llama_cpp(side, folder, inputs) for side in llama_cpp_sides()}
    found: dict[str, Any] = {"tokens": {"text": options.tokens}}
    for load, question in (("question", QUESTION), ("regions", "")):
        sides: dict[str, Callable[[], Timed]] = {
            name: lambda p=pipeline, q=question: run_ours(p, REGIONS, q)  # type: ignore[misc]
            for name, pipeline in ours.items()}
        for name, at_once in zip(SIDES[1:], (False, True)):
            if load == "regions" or not at_once:
                sides[name] = lambda at_once=at_once, load=load: theirs.run(load, at_once)  # type: ignore[misc]
        for name, peer in peers.items():
            sides[name] = lambda peer=peer, load=load: run_llama_cpp(  # type: ignore[misc]
                peer, theirs.prompts[load], theirs.mark, options.tokens)
        untimed = int(load == "question")
        runs: dict[str, list[Timed]] = {name: [] for name in sides}
        for _ in range(untimed + options.rounds):
            for name, run in sides.items():
                runs[name].append(run())
                print(f"{load}, {name}: {runs[name][-1].total:.2f} s", file=sys.stderr, flush=True)
        expected = runs[SIDES[1]][0].texts
        same = {name: sum(map(list.__eq__, of[0].texts, expected)) / len(expected) for name, of in runs.items()}
        # Random weights may leave two tokens so near to each other that rounding parts a text.
        if same.get("ours, fp32", 1) < 0.5:
            raise SystemExit(f"{load}: {same['ours, fp32']:.0%} of our texts in fp32 are those of transformers")
        found["tokens"] |= {load: len(theirs.prompts[load][0])}
        found[load] = {name: _figures(of[untimed:], same[name]) for name, of in runs.items()}
    for peer in peers.values():
        peer.close()
    return found


def _figures(runs: Sequence[Timed], same: float) -> dict[str, float]:
    """Medians. `first_token_s`: until all texts have one, or the last of them where they are written one by one."""
    total = statistics.median(run.total for run in runs)
    return {"encoder_s": statistics.median(run.encoder for run in runs),
            "first_token_s": statistics.median(run.first for run in runs), "total_s": total,
            "tokens_per_s": sum(map(len, runs[0].texts)) / total, "same_text": same}


def together(pipeline: Pipeline, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds for N regions of one picture, and over N times those for one."""
    run_ours(pipeline, REGIONS)
    runs: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(rounds):
        for count in COUNTS:
            runs[count].append(run_ours(pipeline, count).total)
    times = {count: statistics.median(values) for count, values in runs.items()}
    return {str(count): {"seconds": taken, "over_one_at_a_time": taken / (count * times[1])}
            for count, taken in times.items()}


def _peak(side: str, folder: Path, inputs: Path) -> int:
    """`most_bytes` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.qwen3_vl", "--tokens", str(_PEAK_TOKENS), "--peak", side, str(folder),
         str(inputs)], check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return int(done.stdout.splitlines()[-1])


def most_bytes(side: str, folder: str, inputs: str, tokens: int) -> int:
    """Most bytes that this process has held when it has loaded the model and run the regions on one side.

    Args:
        side: A format of our language model, of `SIDES`, or llama.cpp and a format.
        folder: The model's.
        inputs: File with what `model_inputs` gives.
        tokens: Of each text.
    """
    if side in FORMATS:
        run_ours(open_ours(Path(folder), side, tokens), REGIONS)
    elif side.startswith(LLAMA_CPP):
        given = json.loads(Path(inputs).read_text(encoding="utf-8"))
        run_llama_cpp(open_llama_cpp(side, Path(folder), Path(inputs)), given["prompts"]["regions"], given["mark"],
                      tokens)
    else:
        batch = side == SIDES[2]  # one by one, each prompt takes as much as any
        Theirs(Path(folder), Path(inputs), tokens).run("regions" if batch else "question", batch)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
