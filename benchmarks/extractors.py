"""Region extractors on the tabletop: the pyramid, its light version, deformable attention, and a focal crop.

python -m benchmarks.extractors --json benchmarks/results/extractors.json

Each learns, from random weights, to name every object's kind, colour, size and material from the frozen encoder of a
trained checkpoint: same scenes, same steps, same seed. Only the extractor (with the crop's join) and a linear head an
attribute are trained. The encoder has learnt beside the pyramid, which favours it, and has seen whole frames only,
never crops. The scenes are rendered at the first run and kept; the checkpoint was not trained on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import compare, machine_facts, write_results
from ros_gpt4roi.model.checkpoint import load_checkpoint
from ros_gpt4roi.model.config import DeformableConfig, FocalConfig, ModelConfig, RoIAlignLiteConfig, preset
from ros_gpt4roi.model.focal import FocalCrop, build_focal_crop
from ros_gpt4roi.model.regions import build_region_extractor
from ros_gpt4roi.model.vision import VisionEncoder
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES
from training.data.scene_files import render_scenes
from training.data.tabletop import TABLETOP, TabletopDataset

# Regions of a usual frame, for costs and times.
USUAL = 8
# This part of the objects, those with the smallest boxes, counts as small.
SMALL_PART = 0.25


class Scenes(NamedTuple):
    """Features of S scenes, computed once.

    Attributes:
        levels: [S, C_i, H_i, W_i] each.
        boxes: [S, N, 4].
        labels: [S, N, A], −1 for none.
        crop_levels: [S, N, C_i, h_i, w_i] each, or None without crops.
        inner: [S, N, 4], the boxes in the crops, or None without them.
    """

    levels: list[torch.Tensor]
    boxes: torch.Tensor
    labels: torch.Tensor
    crop_levels: list[torch.Tensor] | None
    inner: torch.Tensor | None


class Candidate(nn.Module):
    """An extractor, perhaps with what a focal crop adds, and a linear head an attribute."""

    def __init__(self, model: ModelConfig, channels: tuple[int, ...], width: int):
        super().__init__()
        self.regions = build_region_extractor(model.regions, channels, width)
        self.focal = build_focal_crop(model, self.regions)
        self.heads = nn.ModuleList(nn.Linear(self.regions.feature_width, len(v)) for v in ATTRIBUTES.values())

    def forward(self, scenes: Scenes) -> list[torch.Tensor]:
        """Logits [S, N, classes] of each attribute."""
        features = self.regions.features(scenes.levels, scenes.boxes)
        if self.focal is not None:
            crops = [level.flatten(0, 1) for level in scenes.crop_levels]
            seen = self.regions.features(crops, scenes.inner.flatten(0, 1).unsqueeze(1))
            features = features + self.focal.join(seen.squeeze(1).unflatten(0, scenes.boxes.shape[:2]))
        return [head(features) for head in self.heads]


def candidates(model: ModelConfig, crop_size: int) -> dict[str, ModelConfig]:
    """What is compared, all as wide towards the language model as the checkpoint's own extractor."""
    own = model.regions
    lite = own.converted(RoIAlignLiteConfig, channels=32)
    kinds = {"roi_align": own, "roi_align_lite": lite, "deformable": own.converted(DeformableConfig, layers=2)}
    models = {name: dataclasses.replace(model, regions=kind, focal=None) for name, kind in kinds.items()}
    focal = FocalConfig(scale=2.0, size=crop_size)
    return {**models, "roi_align_lite + focal crop": dataclasses.replace(models["roi_align_lite"], focal=focal)}


@torch.no_grad()
def features(vision: VisionEncoder, data: TabletopDataset, focal: FocalCrop) -> Scenes:
    """All scenes through the frozen encoder."""
    samples = [data[i] for i in range(len(data))]
    most = max(len(sample.boxes) for sample in samples)
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.full((len(samples), most, len(ATTRIBUTES)), -1)
    levels: list[list[torch.Tensor]] = []
    crops: list[list[torch.Tensor]] = []
    inner = torch.zeros(len(samples), most, 4)
    for i, sample in enumerate(samples):
        known = len(sample.boxes)
        boxes[i, :known] = torch.from_numpy(sample.boxes)
        labels[i, :known] = torch.from_numpy(sample.attributes)
        pixels = vision.normalise(torch.from_numpy(sample.image)[None])
        levels.append([level[0].half() for level in vision.levels(pixels)])
        views, inner_boxes = focal.crop(pixels, boxes[i:i + 1, :known])
        inner[i, :known] = inner_boxes[:, 0]
        crops.append([F.pad(level.half(), (0, 0, 0, 0, 0, 0, 0, most - known)) for level in vision.levels(views)])
    return Scenes([torch.stack(part) for part in zip(*levels)], boxes, labels,
                  [torch.stack(part) for part in zip(*crops)], inner)


def batch_of(scenes: Scenes, rows: torch.Tensor, crops: bool) -> Scenes:
    """Return the scenes of a batch; their crops only where asked for."""
    return Scenes([level[rows].float() for level in scenes.levels], scenes.boxes[rows], scenes.labels[rows],
                  [level[rows].float() for level in scenes.crop_levels] if crops else None,
                  scenes.inner[rows] if crops else None)


def train(candidate: Candidate, scenes: Scenes, steps: int, batch: int, seed: int) -> float:
    """Seconds of the processor that `steps` steps took."""
    optimiser = torch.optim.AdamW(candidate.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    begin = time.process_time()
    for _ in range(steps):
        rows = torch.randint(len(scenes.boxes), (batch,), generator=generator)
        part = batch_of(scenes, rows, candidate.focal is not None)
        loss = sum(F.cross_entropy(logits.flatten(0, 1), part.labels[..., i].flatten(), ignore_index=-1)
                   for i, logits in enumerate(candidate(part)))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(candidate.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return time.process_time() - begin


@torch.inference_mode()
def accuracy(candidate: Candidate, scenes: Scenes, image_size: int) -> dict[str, Any]:
    """Right answers of every attribute, of all objects and of the small ones."""
    candidate.eval()
    right = []
    for rows in torch.arange(len(scenes.boxes)).split(16):
        part = batch_of(scenes, rows, candidate.focal is not None)
        right.append(torch.stack([logits.argmax(-1) == part.labels[..., i]
                                  for i, logits in enumerate(candidate(part))], -1))
    correct, known = torch.cat(right), scenes.labels[..., 0] >= 0
    extent = (scenes.boxes[..., 2:] - scenes.boxes[..., :2]).prod(-1).sqrt() * image_size
    limit = extent[known].quantile(SMALL_PART)
    small = known & (extent <= limit)
    result: dict[str, Any] = {"objects": int(known.sum()), "small_objects": int(small.sum()),
                              "small_side_pixels": round(limit.item(), 1)}
    for name, where in (("all", known), ("small", small)):
        result[name] = dict(zip(ATTRIBUTES, np.round(correct[where].float().mean(0).tolist(), 4).tolist()))
    return result


def embed(candidate: Candidate, vision: VisionEncoder, images: torch.Tensor, levels: list[torch.Tensor],
          boxes: torch.Tensor) -> torch.Tensor:
    """Region embeddings as a model computes them behind its encoder; crops go through the encoder here."""
    extra = None if candidate.focal is None else candidate.focal(images, boxes, None, vision, candidate.regions)
    return candidate.regions(levels, boxes, None, extra)


def full_size() -> dict[str, dict[str, float]]:
    """Parameters and multiply-adds of each kind at the published sizes, without their weights."""
    published = preset("gpt4roi-7b").regions
    kinds = {"roi_align": published, "roi_align_lite": preset("gpt4roi-7b-lite").regions,
             "deformable": DeformableConfig()}
    result = {}
    for name, config in kinds.items():
        with torch.device("meta"):
            module = build_region_extractor(config, (1024,) * 4, 4096)
            levels, boxes = [torch.empty(1, 1024, 16, 16) for _ in range(4)], torch.empty(1, USUAL, 4)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                module(levels, boxes)
        result[name] = {"parameters": sum(p.numel() for p in module.parameters()),
                        "multiply_adds": counter.get_total_flops() // 2}
    return result


def main() -> None:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--checkpoint", type=Path, default=Path("models/tabletop"), help="whose encoder is used")
    parser.add_argument("--folder", type=Path, default=Path("runs/extractors"), help="where the scenes are kept")
    parser.add_argument("--scenes", type=int, default=1000, help="to learn from")
    parser.add_argument("--test-scenes", type=int, default=500, help="to be asked about")
    parser.add_argument("--scene-seed", type=int, default=1000, help="of the scenes, another than training's")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop-size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each extractor")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = load_checkpoint(options.checkpoint).model
    vision, config = model.vision, model.config
    width, size = model.projector.out_features, config.preprocess.image_size
    kinds = candidates(config, options.crop_size)
    cropper = FocalCrop(kinds["roi_align_lite + focal crop"].focal, config.preprocess, 1)
    seen, asked = (
        features(vision, TabletopDataset(render_scenes(TABLETOP, options.folder / split, split, count,
                                                       options.scene_seed, preprocess=config.preprocess),
                                         options.seed), cropper)
        for split, count in (("train", options.scenes), ("validation", options.test_scenes)))
    results: dict[str, Any] = {
        "machine": machine_facts(), "full_size": full_size(),
        "settings": {"small_part": SMALL_PART, "regions_a_frame": USUAL,
                  "objects_learnt": int((seen.labels[..., 0] >= 0).sum())},
        "options": {key: str(value) for key, value in vars(options).items() if key != "json"}, "tabletop": {}}
    trained = {}
    for name, kind in kinds.items():
        torch.manual_seed(options.seed)
        candidate = trained[name] = Candidate(kind, vision.level_channels, width)
        spent = train(candidate, seen, options.steps, options.batch, options.seed)
        parts = [candidate.regions, *([candidate.focal] if candidate.focal is not None else [])]
        results["tabletop"][name] = {
            "parameters": sum(p.numel() for part in parts for p in part.parameters()),
            "training_cpu_seconds": round(spent, 1), "accuracy": accuracy(candidate, asked, size)}
        print(name, results["tabletop"][name], flush=True)
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    boxes = torch.tensor([0.3, 0.3, 0.5, 0.5]).expand(1, USUAL, 4)
    with torch.inference_mode():
        levels = vision.levels(vision.normalise(image))
        functions = {name: lambda c=candidate: embed(c, vision, image, levels, boxes)
                     for name, candidate in trained.items()}
        for name, function in functions.items():
            with FlopCounterMode(display=False) as counter:
                function()
            results["tabletop"][name]["multiply_adds"] = counter.get_total_flops() // 2
        times = compare(functions, options.rounds)
    for name, seconds in times.items():
        # Ratios: seconds are this machine's and this minute's.
        results["tabletop"][name]["time_ratio"] = round(seconds / times["roi_align"], 3)
    write_results(options.json, results)


if __name__ == "__main__":
    main()
