"""PyTorch → ONNX, and the check that both compute the same.

The graph has no operator outside the ONNX standard and no RoiAlign node: in TensorRT that one is a plugin, and building
with it needs a GPU driver.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from .errors import EngineError
from .graph import INLINE_BYTES, INPUTS, OUTPUTS, SCOPES
from .network import VisionNetwork

# 20: the newest whose operators TensorRT 10, TensorRT-RTX 1 and ONNX Runtime all parse; 19 is the first with fp8.
OPSET = 20


def export_onnx(network: VisionNetwork, path: Path) -> None:
    """Writes the float32 graph to `path`; weights of a large model to `path`.data beside it.

    Number of frames and boxes are dynamic. Raises EngineError where the graph would need a plugin.
    """
    size, side = network.config.preprocess.image_size, network.mask_side
    # Two frames and three boxes: a size of one would be taken for a constant.
    example = (torch.zeros(2, size, size, 3, dtype=torch.uint8), torch.tensor([0.1, 0.2, 0.6, 0.9]).expand(2, 3, 4),
               torch.ones(2, 3, side, side))
    frames, boxes = torch.export.Dim("frames", min=1), torch.export.Dim("regions", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter warns that the inputs share the number of frames, which is meant.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, example, dynamo=True, opset_version=OPSET, input_names=list(INPUTS),
            output_names=list(OUTPUTS), dynamic_shapes=({0: frames}, {0: frames, 1: boxes}, {0: frames, 1: boxes}),
            verbose=False)
    _convert_bytes_first(program.model.graph)
    for node in program.model.graph:
        if node.domain not in ("", "ai.onnx") or node.op_type == "RoiAlign":
            raise EngineError(f"the exported graph holds {node.domain}::{node.op_type}, expected standard operators")
        # Scopes decide what stays in float32; the rest names lines of this machine's files.
        for key in set(node.metadata_props) - {SCOPES}:
            del node.metadata_props[key]
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    program.save(str(path), external_data=weights > INLINE_BYTES)
    onnx.checker.check_model(str(path))


def _convert_bytes_first(graph: Any) -> None:
    """Makes the conversion to float the only reader of the bytes: TensorRT gives them to no other layer, not even to
    one that asks only for their shape."""
    images = next(value for value in graph.inputs if value.name == INPUTS[0])
    convert = next(node for node in images.consumers() if node.op_type == "Cast")
    graph.remove(convert)
    graph.insert_before(graph[0], convert)
    for node in images.consumers():
        if node is not convert:
            node.replace_input_with(list(node.inputs).index(images), convert.outputs[0])


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest over the vectors of the last dimension: ‖value − expected‖ / ‖expected‖. Infinite where not finite."""
    value, expected = value.detach().double().cpu(), expected.detach().double().cpu()
    if not torch.isfinite(value).all():
        return float("inf")
    if value.numel() == 0:
        return 0.0
    scale = expected.norm(dim=-1).clamp(min=1e-12)
    return float(((value - expected).norm(dim=-1) / scale).max())
