"""The exported ONNX graph as a file: names, what it says about number formats. Needs no PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

INPUTS = ("images", "boxes", "masks")
OUTPUTS = ("image_tokens", "region_embeddings")
MASKED = "region_embeddings under masks"
COMPARED = (*OUTPUTS, MASKED)
SCOPES = "pkg.torch.onnx.name_scopes"
# One protocol buffer holds 2 GB at most: above this, weights go beside the graph.
INLINE_BYTES = 1 << 30
_REQUIREMENTS = "ros_gpt4roi.format_requirements"


@dataclass(frozen=True)
class FormatRequirements:
    """Modules of the network, by path, that do not take every number format (see `model/layers.py`).

    Attributes:
        keep_in_fp32: their products stay in float32.
        sum_in_fp32: sums of computed values in them stay in float32.
        keep_unquantised: their products stay out of int8 and fp8.
    """

    keep_in_fp32: tuple[str, ...] = ()
    sum_in_fp32: tuple[str, ...] = ()
    keep_unquantised: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: onnx.ModelProto) -> FormatRequirements:
        """Those that were exported with a graph."""
        text = next((entry.value for entry in model.metadata_props if entry.key == _REQUIREMENTS), "{}")
        return cls(**{name: tuple(paths) for name, paths in json.loads(text).items()})

    def to_metadata(self) -> dict[str, str]:
        """As an entry of an ONNX model's metadata."""
        return {_REQUIREMENTS: json.dumps(dataclasses.asdict(self))}


def scope(node: onnx.NodeProto) -> str:
    """The dotted module in which a node was traced, such as "regions.pyramid"; empty where it is not known."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            names = [part.strip(" '\"") for part in entry.value.strip("[]").split(",")]
            return names[-2] if len(names) > 1 else ""
    return ""


def is_within(node: onnx.NodeProto, modules: tuple[str, ...]) -> bool:
    """Whether a node was traced in one of the modules or in a part of it."""
    return f"{scope(node)}.".startswith(tuple(f"{module}." for module in modules))


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto], made: Iterable[onnx.TensorProto]) -> None:
    """Puts other nodes in the place of a graph's own, with the weights `made` beside those that are still used."""
    used = {name for node in nodes for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend([*weights, *made])
    graph.node.extend(nodes)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options of an ONNX Runtime session of so many threads; 0: one a core."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Threads that spin between two runs would take the cores from the rest of the robot; within one they save the time
    # it takes to wake them for each of hundreds of operators.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def onnx_files(path: Path) -> list[Path]:
    """The graph and, where there is one, its file of weights."""
    data = path.with_name(path.name + ".data")
    return [path, data] if data.exists() else [path]
