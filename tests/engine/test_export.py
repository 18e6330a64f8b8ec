from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from engine_fixtures import config_of, inputs, random_masks

from ros_gpt4roi.engine import export
from ros_gpt4roi.engine.cache import EngineCache
from ros_gpt4roi.engine.export import (
    VisionNetwork,
    adopt_graph,
    export_onnx,
    fingerprint,
    load_network,
    save_network,
    sources,
    verify_graph,
)
from ros_gpt4roi.engine.gate import relative_error
from ros_gpt4roi.engine.graph import onnx_files
from ros_gpt4roi.engine.onnxruntime import OnnxRuntimeRunner


def assert_same(network: VisionNetwork, path: Path) -> None:
    runner = OnnxRuntimeRunner(path, torch.device("cpu"), network.output_shapes, "fp32", threads=1)
    for frames, regions in ((1, 1), (1, 7), (1, 64), (3, 7)):
        images, boxes = inputs(network.config.preprocess.image_size, frames, regions, seed=regions)
        unmasked = None
        for masks in (None, random_masks(network.mask_side, frames, regions)):
            with torch.inference_mode():
                expected = network(*(None if v is None else torch.from_numpy(v) for v in (images, boxes, masks)))
            for got, wanted in zip(runner(images, boxes, masks), expected):
                assert got.shape == wanted.shape
                assert relative_error(got, wanted) <= 1e-3
            # Both sides could agree on looking past the masks.
            assert unmasked is None or relative_error(expected[1], unmasked) > 1e-2
            unmasked = expected[1]


def test_exported_graph_computes_the_same(network: VisionNetwork, exported: Path) -> None:
    assert_same(network, exported)


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "extractor", "focal"), [
    ("clip", "deformable", 0.0), ("resnet", "roi_align", 0.0), ("resnet", "deformable", 0.0),
    ("siglip", "roi_align_lite", 0.0), ("clip", "roi_align", 2.0), ("clip", "deformable", 2.0)])
def test_every_encoder_and_extractor_exports(encoder: str, extractor: str, focal: float, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = VisionNetwork.build(config_of(encoder, extractor, focal), width=32)
    for parameter in network.parameters():
        # What starts as zero would hide an error in what it is multiplied with.
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    export_onnx(network, tmp_path / "vision.onnx")
    assert_same(network, tmp_path / "vision.onnx")


def test_graph_takes_bytes_and_needs_no_plugin(exported: Path) -> None:
    graph = onnx.load(str(exported)).graph
    images, boxes, masks = graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in images.type.tensor_type.shape.dim][1:] == [32, 32, 3]
    assert [bool(d.dim_param) for d in boxes.type.tensor_type.shape.dim] == [True, True, False]
    assert [bool(d.dim_param) for d in masks.type.tensor_type.shape.dim] == [True, True, False, False]
    assert [node.op_type for node in graph.node if "images" in node.input] == ["Cast"]
    assert {node.domain for node in graph.node} == {""}
    assert "RoiAlign" not in {node.op_type for node in graph.node}


@pytest.mark.slow
def test_weights_of_a_large_model_go_beside_the_graph(
        network: VisionNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "INLINE_BYTES", 1)
    export_onnx(network, tmp_path / "vision.onnx")
    graph, data = onnx_files(tmp_path / "vision.onnx")
    weights = sum(p.numel() * 4 for p in network.parameters())
    assert data.stat().st_size >= 0.9 * weights > graph.stat().st_size / 10
    assert_same(network, graph)
    runner = OnnxRuntimeRunner(graph, torch.device("cpu"), network.output_shapes, "fp32", threads=1)
    given = inputs(network.config.preprocess.image_size, 1, 3)
    before = runner(*given)
    with data.open("r+b") as file:  # in place: a new file would leave the old one's pages
        file.write(b"\xff" * data.stat().st_size)
    assert all(map(torch.equal, runner(*given), before)), "what happens to the file reaches the model"


def test_fingerprint_follows_the_weights(network: VisionNetwork, tmp_path: Path) -> None:
    before = fingerprint(network)
    save_network(network, tmp_path)
    copy = load_network(tmp_path)
    assert fingerprint(copy) == before
    with torch.no_grad():
        copy.projector.bias[0] += 1e-3
    assert fingerprint(copy) != before


def test_fingerprint_follows_all_code_that_the_network_is_made_of(root: Path) -> None:
    model = root / "ros_gpt4roi" / "model"
    for extractor in ("roi_align", "deformable"):
        found = sources(VisionNetwork.build(config_of("clip", extractor, focal=2.0), width=32))
        names = {path.name for path in found}
        assert {"architecture.py", "config.py", "focal.py", "layers.py", "regions.py", "roi_align.py", "vision.py",
                "deformable.py", "export.py", "graph.py"} <= names
        assert not {"checkpoint.py", "convert.py", "prompt.py", "cache.py"} & names
        for path in found:
            used = {f"{module}.py" for module in re.findall(r"^\s*from \.(\w+) import", path.read_text(), re.MULTILINE)}
            assert path.parent != model or used <= names, f"{path} uses {used - names}"


def test_of_a_graph_that_a_model_brings_only_what_was_verified_is_taken(
        network: VisionNetwork, cache: EngineCache, remembered: Callable[[str], None], tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    remembered("brought")
    brought = tmp_path / "model" / "vision.onnx"
    brought.parent.mkdir()
    cache.graph_folder("brought").rename(brought)
    (tmp_path / "elsewhere").write_text("of no graph")
    (brought / "extra").symlink_to(tmp_path / "elsewhere")
    with caplog.at_level("INFO"):
        adopt_graph(brought.parent, network, "tiny", cache)
    own = cache.graph_folder("tiny")
    assert f"taken into {own}" in caplog.text
    assert sorted(path.name for path in own.iterdir()) == ["record.json", "vision.onnx"]
    assert verify_graph(own, fingerprint(network)).path.is_file()


def test_relative_error_is_of_the_worst_vector_and_infinite_for_nan() -> None:
    expected = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert relative_error(torch.tensor([[3.0, 4.0], [0.0, 2.5]]), expected) == pytest.approx(0.25)
    assert relative_error(torch.tensor([[3.0, 4.0], [0.0, float("nan")]]), expected) == float("inf")
