"""Facts about the ONNX graph that need neither PyTorch nor an engine."""

from __future__ import annotations

from pathlib import Path

import onnx

INPUTS = ("images", "boxes", "masks")
OUTPUTS = ("image_tokens", "region_embeddings")
SCOPES = "pkg.torch.onnx.name_scopes"
# One protocol buffer holds 2 GB at most: above this, weights go beside the graph.
INLINE_BYTES = 1 << 30


def scope(node: onnx.NodeProto) -> str:
    """The dotted module in which a node was traced, such as "regions.pyramid"; empty where it is not known."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            names = [part.strip(" '\"") for part in entry.value.strip("[]").split(",")]
            return names[-2] if len(names) > 1 else ""
    return ""


def onnx_files(path: Path) -> list[Path]:
    """The graph and, where there is one, its file of weights."""
    data = path.with_name(path.name + ".data")
    return [path, data] if data.exists() else [path]
