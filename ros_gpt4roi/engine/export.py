"""The part of a model that becomes an engine, and PyTorch → ONNX.

The graph has no operator outside the ONNX standard and no RoiAlign node: in TensorRT that one is a plugin, and building
with it needs a GPU driver.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import nn

from ..configuration import build
from ..model.config import ModelConfig
from ..model.focal import build_focal_crop
from ..model.gpt4roi import GPT4RoI
from ..model.qwen3_vl import MAX_PIXELS, Qwen3VL
from ..model.regions import build_region_extractor
from ..model.vision import VisionEncoder
from ..regular_file import file_digest, open_regular, read_json
from . import EngineError
from .build_process import Limits, ProgressCallback, run_job
from .cache import EngineCache, remove
from .graph import COMPARED, INLINE_BYTES, INPUTS, OUTPUTS, SCOPES, FormatRequirements, onnx_files
from .picture_network import PictureNetwork
from .precision.calibration import StoredFrame, load_frames
from .profiles import EngineProfile

_log = logging.getLogger(__name__)

# 20: the newest whose operators TensorRT 10, TensorRT-RTX 1 and ONNX Runtime all parse; 19 is the first with fp8.
OPSET = 20
GRAPH_FOLDER = "vision.onnx"  # of a model folder that brings its exported graph
_RECORD = "record.json"
_ADOPTION_LIMIT_S = 600.0


class VisionNetwork(nn.Module):
    """uint8 frames and normalised boxes → image tokens and region embeddings.

    It shares its weights with the model it is made of.
    """

    keep_unquantised = ("projector",)  # cheap, and the language model reads what it writes
    inputs, outputs, compared = INPUTS, OUTPUTS, COMPARED

    def __init__(self, config: ModelConfig, vision: VisionEncoder, projector: nn.Linear, regions: nn.Module,
                 focal: nn.Module | None = None):
        super().__init__()
        self.config, self.vision, self.projector, self.regions, self.focal = config, vision, projector, regions, focal

    @classmethod
    def of(cls, model: GPT4RoI) -> VisionNetwork:
        """All of a model but its language model."""
        return cls(model.config, model.vision, model.projector, model.regions, model.focal).eval()

    @classmethod
    def build(cls, config: ModelConfig, width: int) -> VisionNetwork:
        """Random weights. width: D, the language model's width."""
        vision = VisionEncoder(config.vision, config.preprocess)
        regions = build_region_extractor(config.regions, vision.level_channels, width)
        return cls(config, vision, nn.Linear(vision.width, width), regions,
                   build_focal_crop(config, regions)).eval()

    def example(self) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
        """Inputs to trace the network with, and which of their sizes are dynamic."""
        size, side = self.config.preprocess.image_size, self.mask_side
        frames, regions = torch.export.Dim("frames", min=1), torch.export.Dim("regions", min=1)
        # Two frames and three boxes: a size of one would be taken for a constant.
        return ((torch.zeros(2, size, size, 3, dtype=torch.uint8),
                 torch.tensor([0.1, 0.2, 0.6, 0.9]).expand(2, 3, 4), torch.ones(2, 3, side, side)),
                ({0: frames}, {0: frames, 1: regions}, {0: frames, 1: regions}))

    def record(self) -> dict[str, Any]:
        """What `restore` makes a network of, for another process."""
        return {"model": self.config.to_dict(), "width": self.projector.out_features}

    @classmethod
    def restore(cls, record: dict[str, Any]) -> VisionNetwork:
        """A network of random weights."""
        return cls.build(build(ModelConfig, record["model"]), record["width"])

    def plan_shapes(self, profile: EngineProfile) -> list[dict[str, list[list[int]]]]:
        """Least, usual and largest shape of every input, of each optimisation profile of a plan."""
        size, side = self.config.preprocess.image_size, self.mask_side
        counts = ((1, 1), (profile.usual_frames, profile.usual_regions), (profile.max_frames, profile.max_regions))
        return [dict(zip(self.inputs, ([[frames, size, size, 3] for frames, _ in counts],
                                       [[*count, 4] for count in counts], [[*count, side, side] for count in counts])))]

    def shapes_text(self, profile: EngineProfile) -> str:
        """What of a profile is built into a plan, as text."""
        return profile.shapes

    def frames_record(self, profile: EngineProfile) -> dict[str, Any]:
        """What another process gives `load_stored` to calibrate on the pictures of `frames`."""
        return {"preprocess": dataclasses.asdict(self.config.preprocess)}

    def frames(self, folder: Path, profile: EngineProfile) -> list[StoredFrame]:
        """The stored frames of a folder, with as many boxes as a profile takes."""
        return [dataclasses.replace(frame, boxes=frame.boxes[:, :profile.max_regions])
                for frame in load_frames(folder, self.config.preprocess)]

    @property
    def output_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(T, D) of the image tokens and (K, D) of a region's embeddings."""
        width = self.projector.out_features
        return (self.vision.token_count, width), (self.config.regions.embeddings, width)

    @property
    def mask_side(self) -> int:
        """P: bins a side of a region's mask."""
        return self.config.regions.roi_size

    def forward(self, images: torch.Tensor, boxes: torch.Tensor,
                masks: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodes frames and their regions.

        Args:
            images: uint8 RGB [B, S, S, 3].
            boxes: float32 [B, N, 4] x1 y1 x2 y2 in units of the image.
            masks: float32 [B, N, P, P] in 0..1, weights of the regions' bins, or None; the exported graph takes ones
                for that.

        Returns:
            Image tokens [B, T, D] and region embeddings [B, N, K, D].
        """
        tokens, levels = self.vision(images)
        extra = None if self.focal is None else self.focal(images, boxes, masks, self.vision, self.regions)
        return self.projector(tokens), self.regions(levels, boxes, masks, extra)


#: What becomes an engine.
AnyNetwork = VisionNetwork | PictureNetwork


def network_of(model: GPT4RoI | Qwen3VL, max_pixels: int = MAX_PIXELS) -> AnyNetwork:
    """What becomes a model's engine.

    Args:
        model: The model.
        max_pixels: Of a picture, for a model that takes pictures of any size.
    """
    if isinstance(model, Qwen3VL):
        return PictureNetwork.of(model, model.config.within(max_pixels).preprocess)
    return VisionNetwork.of(model)


def save_network(network: AnyNetwork, folder: Path) -> None:
    """Writes what `load_network` reads, for another process."""
    (folder / "config.json").write_text(json.dumps(network.record()), encoding="utf-8")
    # Clones: an encoder may share a tensor between two names, which the format refuses.
    save_file({k: v.detach().cpu().clone().contiguous() for k, v in network.state_dict().items()},
              folder / "weights.safetensors")


def load_network(folder: Path) -> AnyNetwork:
    """The network in float32 on the CPU."""
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind: type[AnyNetwork] = PictureNetwork if "picture" in record else VisionNetwork
    with init_empty_weights(include_buffers=False):
        network = kind.restore(record)
    weights = load_file(folder / "weights.safetensors")
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()}, assign=True)
    return network.eval()


def export_onnx(network: AnyNetwork, path: Path) -> None:
    """Writes the float32 graph to `path`; weights of a large model to `path`.data beside it.

    Numbers of frames and boxes are dynamic, or of a network of pictures their height and width.

    Raises:
        EngineError: the graph would need a plugin.
    """
    example, dynamic = network.example()
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter warns that the inputs share the number of frames, which is meant.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, example, dynamo=True, opset_version=OPSET, input_names=list(network.inputs),
            output_names=list(network.outputs), dynamic_shapes=dynamic, verbose=False)
    assert program is not None
    _convert_bytes_first(program.model.graph)
    for node in program.model.graph:
        if node.domain not in ("", "ai.onnx") or node.op_type == "RoiAlign":
            raise EngineError(f"the exported graph holds {node.domain}::{node.op_type}, expected standard operators")
        # The rest names lines of this machine's files.
        for key in set(node.metadata_props) - {SCOPES}:
            del node.metadata_props[key]
    program.model.metadata_props.update(_requirements(network).to_metadata())
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    program.save(str(path), external_data=weights > INLINE_BYTES)
    onnx.checker.check_model(str(path))


def _convert_bytes_first(graph: Any) -> None:
    """Makes the conversion to float the only reader of the bytes.

    TensorRT gives them to no other layer, not even to one that asks only for their shape.
    """
    images = next(value for value in graph.inputs if value.name == INPUTS[0])
    convert = next(node for node in images.consumers() if node.op_type == "Cast")
    graph.remove(convert)
    graph.insert_before(graph[0], convert)
    for node in images.consumers():
        if node is not convert:
            node.replace_input_with(list(node.inputs).index(images), convert.outputs[0])


def _requirements(network: nn.Module) -> FormatRequirements:
    """What the network's modules say of themselves, under their paths."""
    modules = dict(network.named_modules())

    def parts(attribute: str) -> tuple[str, ...]:
        return tuple(f"{path}.{name}".lstrip(".") for path, module in modules.items()
                     for name in getattr(module, attribute, ()))

    return FormatRequirements(parts("keep_in_fp32"),
                              tuple(path for path, module in modules.items() if getattr(module, "sum_in_fp32", False)),
                              parts("keep_unquantised"))


def sources(network: nn.Module) -> list[Path]:
    """The files of this package that decide what graph a network becomes.

    Those of its classes and of the export, and what they import of model/, whether this process has imported it or not:
    the answer is the same in all.
    """
    package = Path(__file__).parent.parent
    model = ModelConfig.__module__.rpartition(".")[0] + "."
    names, found = {type(part).__module__ for part in network.modules()}, set()
    names = {name for name in names if name.startswith(model)}
    names |= {__name__, type(network).__module__, FormatRequirements.__module__}
    while names:
        name = names.pop()
        path = package.joinpath(*name.split(".")[1:]).with_suffix(".py")
        if path in found or not path.is_file():  # a name in a module, not a module
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), name.rpartition(".")[0])
                used = {base, *(f"{base}.{alias.name}" for alias in node.names)}
                names |= {name for name in used if name.startswith(model)}
    return sorted(found)


def fingerprint(network: AnyNetwork) -> str:
    """SHA-256 (hex) of everything that decides what the exported graph computes: config, weights, code, exporter."""
    digest = hashlib.sha256()
    for path in sources(network):
        digest.update(path.read_bytes())
    versions = [torch.__version__, transformers.__version__]
    digest.update(json.dumps([*versions, network.record()], sort_keys=True).encode())
    for name, value in network.state_dict().items():
        # In float32, as they are exported: a model stored in half precision is the same however it was loaded.
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).contiguous()
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class ExportedGraph:
    """The float32 ONNX graph of a model. digest: SHA-256 over graph and weights."""

    path: Path
    digest: str


def verify_graph(folder: Path, expected: str | None = None) -> ExportedGraph:
    """The graph of a folder. expected: the network's fingerprint (None: any).

    Raises:
        EngineError: it must not be used; the message names the folder and says why.
    """
    try:
        record = read_json(folder / _RECORD)
        if expected not in (None, record["fingerprint"]):
            raise EngineError(f"{folder}: stale, model, code or PyTorch changed")
        graph, files = folder / "vision.onnx", dict(record["files"])
        for path in onnx_files(graph):
            if file_digest(path) != files[path.name]:
                raise EngineError(f"{folder}: {path.name} is damaged or tampered with")
    except FileNotFoundError:
        raise EngineError(f"{folder}: not exported yet") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{folder}: unreadable ({error!r})") from error
    return ExportedGraph(graph, hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest())


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Gives an empty folder, which takes the place of `folder` when it has been filled."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        filled = Path(scratch, "graph")
        filled.mkdir()
        yield filled
        remove(folder)
        os.replace(filled, folder)


def provide_onnx(network: AnyNetwork, entry: str, cache: EngineCache, limits: Limits, build: bool = True,
                 progress: ProgressCallback | None = None) -> ExportedGraph:
    """The exported graph of a network, from the cache where it fits.

    Args:
        network: what is exported.
        entry: its name in the cache, of `cache.model_entry`.
        cache: where the graph is kept.
        limits: of the child process that exports.
        build: whether to export what is missing.
        progress: called with how far the export has come.

    Raises:
        EngineError: the graph is missing and build is False, or it cannot be exported.
    """
    expected = fingerprint(network)
    folder = cache.graph_folder(entry)
    with cache.lock(f"{entry}.onnx", limits.timeout_s, progress):
        try:
            return verify_graph(folder, expected)
        except EngineError as reason:
            if not build:
                raise EngineError(f"{reason}, and building is switched off") from reason
            _log.info("%s, exporting", reason)
        with _replaced(folder) as target, tempfile.TemporaryDirectory(dir=cache.folder, prefix=".export-") as source:
            save_network(network, Path(source))
            graph = target / "vision.onnx"
            run_job({"kind": "export", "network": source, "onnx": str(graph)}, limits, progress)
            files = {path.name: file_digest(path) for path in onnx_files(graph)}
            (target / _RECORD).write_text(json.dumps({"fingerprint": expected, "files": files}), encoding="utf-8")
        return verify_graph(folder, expected)


def adopt_graph(folder: Path, network: AnyNetwork, entry: str, cache: EngineCache,
                progress: ProgressCallback | None = None) -> None:
    """Puts the graph that a model folder brings into the cache, unless what is there fits or the graph does not.

    Raises nothing: what could not be taken is exported where it is needed, and the log says why.

    Args:
        folder: of the model.
        network: of that model.
        entry: the model's name in the cache, of `cache.model_entry`.
        cache: where the graph goes.
        progress: called while another process works on the entry.
    """
    brought, own = folder / GRAPH_FOLDER, cache.graph_folder(entry)
    if not brought.is_dir():
        return
    expected = fingerprint(network)
    try:
        with cache.lock(f"{entry}.onnx", _ADOPTION_LIMIT_S, progress):
            with contextlib.suppress(EngineError):
                verify_graph(own, expected)
                return
            found = verify_graph(brought, expected)
            with _replaced(own) as copy:
                # These and nothing else: only they have been verified, and a link may lead anywhere.
                for path in (brought / _RECORD, *onnx_files(found.path)):
                    with open_regular(path) as source, open(copy / path.name, "wb") as target:
                        shutil.copyfileobj(source, target)
    except Exception as error:  # whatever is wrong with it or with the disk: there is the model itself
        _log.warning("the graph that the model brings is not used: %s", error)
    else:
        _log.info("%s: taken into %s", brought, own)
