"""Region extractors: RoIAlign against torchvision, the published vectors, masks, costs, and what survives export."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from ros_gpt4roi.model.config import (
    ConfigError,
    DeformableConfig,
    FocalConfig,
    PointConfig,
    RoIAlignConfig,
    RoIAlignLiteConfig,
    preset,
)
from ros_gpt4roi.model.convert import published_key
from ros_gpt4roi.model.regions import build_region_extractor, resize
from ros_gpt4roi.model.roi_align import roi_align, roi_align_image

SMALL = RoIAlignConfig(channels=16, scales=(2, 1, 1), fusion_rounds=1, groups=4, roi_size=4, hidden=24,
                       position_hidden=8, embeddings=2)
KINDS = {"roi_align": SMALL, "roi_align_lite": SMALL.converted(RoIAlignLiteConfig),
         "deformable": SMALL.converted(DeformableConfig, heads=4, points=3, layers=2),
         "with_place": dataclasses.replace(SMALL, place=5.0)}


def levels(seed: int = 0, batch: int = 2, channels: tuple[int, ...] = (8, 8, 12)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, c, 16 >> i, 16 >> i, generator=generator) for i, c in enumerate(channels)]


def extractor(kind: str, **changes) -> torch.nn.Module:
    torch.manual_seed(1)
    built = build_region_extractor(dataclasses.replace(KINDS[kind], **changes), (8, 8, 12), 20).eval()
    if kind == "deformable":
        for layer in built.layers:
            torch.nn.init.normal_(layer.attention.offsets.weight, std=0.1)
            torch.nn.init.normal_(layer.attention.weights.weight, std=0.5)
    return built


BOXES = torch.tensor([[[0.1, 0.2, 0.6, 0.9], [0.5, 0.5, 0.55, 0.6], [-0.2, 0.3, 0.4, 1.3]],
                      [[0, 0, 1, 1], [0.7, 0.1, 0.9, 0.2], [0.0, 0.0, 0.0, 0.0]]])


@pytest.mark.parametrize(("size", "samples"), [(7, 2), (14, 2), (3, 1), (1, 4)])
def test_roi_align_is_torchvisions(size, samples):
    generator = torch.Generator().manual_seed(size)
    features = torch.randn(2, 5, 13, 17, generator=generator)
    low = torch.rand(2, 60, 2, generator=generator) * 2 - 0.5
    extent = torch.rand(2, 60, 2, generator=generator) ** 3 * 1.5
    extent[:, :10] *= 1e-3  # Far below a cell.
    boxes = torch.cat([low, low + extent], -1)
    boxes[0, 10] = torch.tensor([2.0, 2, 3, 3])  # Wholly outside.
    boxes[0, 11] = torch.tensor([-5.0, -5, 6, 6])
    boxes[0, 12] = 0  # A padding row.
    pixels = boxes * torch.tensor([17, 13, 17, 13.0])
    places = torch.cat([torch.arange(2.0).repeat_interleave(60)[:, None], pixels.flatten(0, 1)], 1)
    expected = torchvision.ops.roi_align(features, places, size, 1.0, samples, aligned=True)
    ours = roi_align(features, boxes, size, samples)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)
    assert not ours[10].any()
    torch.testing.assert_close(roi_align_image(features, boxes, size, samples), expected, atol=2e-5, rtol=1e-5)
    masks = torch.rand(2, 60, size, size, generator=generator)
    torch.testing.assert_close(roi_align(features, boxes, size, samples, masks),
                               expected * masks.flatten(0, 1).unsqueeze(1), atol=2e-5, rtol=1e-5)


def published_draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_published_vectors():
    config = preset("gpt4roi-7b").regions
    with torch.device("meta"):
        module = build_region_extractor(config, (1024,) * 4, 4096)
    weights = {}
    for key, value in module.state_dict().items():
        name = published_key("regions." + key).removeprefix("model.spi_module.")
        drawn = published_draw(name, tuple(value.shape))
        if name.endswith("bias"):
            drawn *= 0.02
        elif name.endswith(".gn.weight") or name in ("roi_align.pos_embedd.2.weight", "roi_align.pos_embedd.5.weight"):
            drawn = 1 + 0.1 * drawn
        else:
            drawn /= np.sqrt(np.prod(drawn.shape[1:]))
        weights[key] = torch.from_numpy(drawn)
    module.load_state_dict(weights, assign=True)
    vectors = np.load(Path(__file__).with_name("data") / "region_module_vectors.npz")
    maps = [torch.from_numpy(published_draw(f"feat{i}", (2, 256, 1024))).transpose(1, 2).unflatten(2, (16, 16))
            for i in range(4)]
    boxes = torch.zeros(2, 3, 4)
    boxes[0] = torch.from_numpy(vectors["boxes0"])
    boxes[1, :2] = torch.from_numpy(vectors["boxes1"])
    with torch.no_grad():
        embeddings = module(maps, boxes)[:, :, 0]
    for ours, name in ((embeddings[0], "image0"), (embeddings[1, :2], "image1")):
        reference = torch.from_numpy(vectors[name])
        assert (ours - reference).norm() / reference.norm() <= 1e-4


def test_resizing_commutes_with_a_pointwise_convolution():
    conv = torch.nn.Conv2d(8, 5, 1)
    features = levels()[0]
    torch.testing.assert_close(resize(conv(features), 41, 29), conv(resize(features, 41, 29)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_of_an_image_do_not_see_each_other(kind):
    module = extractor(kind)
    with torch.no_grad():
        together = module(levels(), BOXES)
        assert together.shape == (2, 3, 2, 20)
        for place in range(3):
            torch.testing.assert_close(module(levels(), BOXES[:, place:place + 1])[:, 0], together[:, place],
                                       atol=1e-5, rtol=1e-4)
        alone = module([level[:1] for level in levels()], BOXES[:1])
        torch.testing.assert_close(alone, together[:1], atol=1e-5, rtol=1e-4)
        assert module(levels(), BOXES[:, :0]).shape == (2, 0, 2, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_a_region_differ(kind):
    with torch.no_grad():
        first, second = extractor(kind)(levels(), BOXES).unbind(2)
    assert (first - second).abs().mean() > 1e-3


@pytest.mark.parametrize("kind", ["roi_align", "deformable"])
def test_place_is_that_of_a_boxs_middle_and_size_and_stands_out_as_asked_for(kind):
    module = extractor(kind, place=1000.0)
    boxes = torch.tensor([[[0.2, 0.3, 0.4, 0.5], [0.25, 0.1, 0.35, 0.7], [0.3, 0.3, 0.5, 0.5], [0.9, 0.4, 1.1, 0.6],
                           [0.2, 0.3, 0.4, 0.5]]])
    with torch.no_grad():
        found = module(levels(batch=1), boxes)
        module.place.layer.weight.zero_()
        added = (found - module(levels(batch=1), boxes))[0]
    torch.testing.assert_close(added[0], added[4], atol=1e-2, rtol=1e-4)
    assert (added[0] - added[1]).norm() > 100  # the same middle, another size
    torch.testing.assert_close(added[:, 0], added[:, 1], atol=1e-2, rtol=1e-4)  # for each of a region's embeddings
    assert (added[0] - added[2]).norm() > 100
    # At the edge both the coordinate and its square are 1; 20 random numbers are not exactly as long as 1000 √2.
    assert 700 < added[3, 0].norm() < 2200


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_mask_is_no_mask_and_a_half_one_hides_the_other_half(kind):
    module = extractor(kind)
    box = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]])
    masks = torch.ones(1, 1, 4, 4)
    maps = levels(batch=1)
    with torch.no_grad():
        torch.testing.assert_close(module(maps, box, masks), module(maps, box))
        masks[..., 2:] = 0
        half = module(maps, box, masks)
        assert (half - module(maps, box)).abs().max() > 1e-4
        assert (half - module(maps, box, 0 * masks)).abs().max() > 1e-4


def test_masked_bins_are_not_seen():
    """What lies in bins of weight 0 changes nothing (no fusion round: only the level's own cells reach a bin)."""
    module = extractor("roi_align", fusion_rounds=0, scales=None, embeddings=1)
    box, masks = torch.tensor([[[0.0, 0, 1, 1]]]), torch.ones(1, 1, 4, 4)
    masks[..., 2:] = 0
    maps = levels(batch=1)
    other = [level.clone() for level in maps]
    for level in other:
        level[..., -level.shape[-1] // 4:] += 5
    with torch.no_grad():
        torch.testing.assert_close(module(maps, box, masks), module(other, box, masks))
        assert (module(maps, box) - module(other, box)).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roi_align", "deformable", "with_place"])
def test_export_computes_the_same_masks_included(kind, tmp_path):
    module = extractor(kind)
    inputs = (levels(), BOXES, torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    frames, regions = torch.export.Dim("frames", min=1), torch.export.Dim("regions", min=1)
    program = torch.onnx.export(module, inputs, dynamo=True, opset_version=20, verbose=False, dynamic_shapes=(
        [{0: frames}] * 3, {0: frames, 1: regions}, {0: frames, 1: regions}))
    assert {node.domain for node in program.model.graph} <= {"", "ai.onnx"}
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for frame, count in ((slice(0, 2), 3), (slice(1, 2), 1)):
        maps, boxes, masks = [level[frame] for level in inputs[0]], inputs[1][frame, :count], inputs[2][frame, :count]
        values = [*maps, boxes, masks]
        feed = {place.name: value.numpy() for place, value in zip(session.get_inputs(), values, strict=True)}
        with torch.no_grad():
            expected = module(maps, boxes, masks)
        np.testing.assert_allclose(session.run(None, feed)[0], expected.numpy(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind):
    module = extractor(kind).train()
    module(levels(), BOXES[:, :2]).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_close(kind):
    module = extractor(kind)
    with torch.no_grad():
        expected = module(levels(), BOXES[:, :2])
        with torch.autocast("cpu", torch.bfloat16):
            mixed = module(levels(), BOXES[:, :2])
        half = module.bfloat16()([level.bfloat16() for level in levels()], BOXES[:, :2])
    for value in (mixed, half):
        assert ((value.float() - expected).norm() / expected.norm()).item() < 0.05


def multiply_adds(name: str, boxes: int = 1) -> float:
    config = preset(name)
    with torch.device("meta"):
        module = build_region_extractor(config.regions, (1024,) * 4, 4096)
        maps = [torch.empty(1, 1024, 16, 16) for _ in range(4)]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(maps, torch.empty(1, boxes, 4))
    return counter.get_total_flops() / 2


def test_costs_at_full_size():
    assert multiply_adds("gpt4roi-7b") == pytest.approx(1.05e12, rel=0.05)
    assert multiply_adds("gpt4roi-7b-lite", boxes=8) < 0.1e12


def test_deformable_points_start_inside_the_box():
    attention = extractor("deformable").layers[0].attention
    attention._spread()
    assert attention.offsets.bias.abs().max() <= 1
    assert len({tuple(o) for o in attention.offsets.bias.reshape(4, 3, 3, 2)[:, 0, -1].round(decimals=3).tolist()}) == 4


@pytest.mark.parametrize(("kind", "changes", "text"), [
    ("roi_align", {"kind": "roi_pool"}, "'roi_pool', expected roi_align"),
    ("roi_align", {"scales": (1, 2)}, "2 entries, expected one a level: 3"),
    ("deformable", {"heads": 5}, "hidden is 24, expected a multiple of heads=5"),
    ("roi_align", {"channels": 18}, "multiple of 4"), ("roi_align_lite", {"groups": 3}, "groups=3"),
    ("deformable", {"embeddings": 0}, "embeddings is 0")])
def test_impossible_configs_are_refused(kind, changes, text):
    with pytest.raises(ConfigError, match=text):
        build_region_extractor(dataclasses.replace(KINDS[kind], **changes), (8, 8, 12), 20)


def test_impossible_focal_crops_and_points_are_refused():
    with pytest.raises(ConfigError, match="scale is 0.5"):
        FocalConfig(scale=0.5)
    with pytest.raises(ConfigError, match="size is 0"):
        PointConfig(size=0)
