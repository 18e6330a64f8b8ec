"""The vision stage: frames and boxes in, image tokens and region embeddings out. One call, three backends."""
from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..configuration import Configuration, setting
from ..engine import PictureSizeError
from ..engine.build_process import ProgressCallback
from ..engine.cache import model_entry
from ..engine.export import adopt_graph, network_of
from ..engine.gate import TextWriter
from ..engine.onnxruntime import open_onnxruntime
from ..engine.profiles import EngineOptions
from ..engine.tensorrt.engine import open_tensorrt
from ..model.checkpoint import LoadedModel, LoadedQwen3VL
from ..model.gpt4roi import GPT4RoI
from ..model.qwen3_vl import MAX_PIXELS, AnyVisionOutput, PictureOutput, Qwen3VL

_log = logging.getLogger(__name__)

_SIZES_LOGGED = 16  # of pictures without an engine, beyond which the counter alone tells


@dataclass(frozen=True)
class VisionOptions(Configuration):
    """How the vision stage is run."""

    backend: str = setting("auto", "Backend; auto: the first that works of TensorRT (on a GPU), ONNX Runtime, PyTorch.",
                           choices=("auto", "tensorrt", "onnxruntime", "torch"))
    engine: EngineOptions = EngineOptions()
    max_pixels: int = setting(MAX_PIXELS, "A model that takes pictures of any size gets none of more pixels; fewer "
                                          "make a shorter prompt.", at_least=1024, at_most=2**26, unit="pixels")


class Runner(Protocol):
    """What runs an encoder, projector and region extractor. precision: its number format."""

    precision: str

    def __call__(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> AnyVisionOutput:
        """See `VisionStage.encode`; at least one box."""


class TorchRunner:
    """Encoder, projector and region extractor of the model itself."""

    def __init__(self, model: GPT4RoI | Qwen3VL):
        self._model, self.precision = model, str(model.dtype).removeprefix("torch.")

    def __call__(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> AnyVisionOutput:
        """See `VisionStage.encode`; at least one box."""
        # Boxes stay in float32 whatever the model is in: half precision is too coarse for coordinates.
        device = self._model.device
        return self._model.encode(torch.from_numpy(images).to(device), torch.from_numpy(boxes).to(device),
                                  None if masks is None else torch.from_numpy(masks).to(device))


class VisionStage:
    """Runs the vision part of a model. Not thread-safe: one worker owns it.

    Args:
        backend: Which one runs ("tensorrt", "onnxruntime", "torch").
        precision: Its number format, such as "fp16".
        reason: Why it was taken, in words for people.

    Attributes:
        counters: What has happened since construction, for diagnostics.
    """

    def __init__(self, model: GPT4RoI | Qwen3VL, backend: str = "torch", runner: Runner | None = None,
                 reason: str = "asked for"):
        """The PyTorch backend; `open` takes others."""
        self._model, self._device, self._dtype = model, model.device, model.dtype
        self._torch = TorchRunner(model)
        self._runner = runner or self._torch
        self._unfit: set[tuple[int, ...]] = set()  # sizes of pictures that the engine was not built for
        self.counters = {"frames_without_engine": 0}
        self.backend, self.precision, self.reason = backend, self._runner.precision, reason

    @classmethod
    def open(cls, loaded: LoadedModel | LoadedQwen3VL, options: VisionOptions, model_folder: Path,
             progress: ProgressCallback | None = None, write_texts: TextWriter | None = None) -> VisionStage:
        """Takes a backend, builds its engine where it is missing (`options.engine`), and checks it against PyTorch.

        Args:
            loaded: the model.
            options: which backend, and where its engines are.
            model_folder: that the model was loaded from: its name in the engine cache; may bring its exported graph.
            progress: called with how far building has come; it must return at once.
            write_texts: what an engine is compared with PyTorch by, beside numbers.

        Raises:
            EngineError: the backend asked for does not work here; "auto" raises nothing and ends with PyTorch.
        """
        wanted = [options.backend]
        if options.backend == "auto":
            wanted = _preference(loaded)
        left_out = []
        for backend in wanted:
            try:
                runner = _open(backend, loaded, options, model_folder, progress, write_texts)
            except Exception as error:  # whatever fails leads to the next; PyTorch runs the model as it is
                if options.backend != "auto":
                    raise
                left_out.append(f"{backend}: {error}")
                continue
            reason = "asked for" if options.backend != "auto" else _because(loaded.model.device, left_out)
            log = _log.warning if left_out else _log.info
            log("vision stage runs on %s (%s, %s): %s", backend, loaded.model.device, runner.precision, reason)
            return cls(loaded.model, backend, runner, reason)
        raise AssertionError("PyTorch is always last and always works")

    @torch.inference_mode()
    def encode(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> AnyVisionOutput:
        """Encodes frames and their regions.

        Args:
            images: uint8 RGB [B, S, S, 3], or as the model's preprocessing gives them.
            boxes: float32 [B, N, 4] x1 y1 x2 y2 in units of the image; N may be 0.
            masks: float32 [B, N, P, P] in 0..1, weights of the regions' bins (see `model.region_shapes`), or None.

        Returns:
            Image tokens [B, T, D], region embeddings [B, N, K, D] and what else the model's encoder gives, in the
            model's number format on its device; on a GPU they are queued on the caller's stream.

        Raises:
            EngineError: more frames or regions than an engine was built for.
        """
        # At least one box: the region extractor is never asked about none.
        if boxes.shape[1]:
            output = self._run(images, boxes, masks)
        else:
            output = self._run(images, np.zeros((boxes.shape[0], 1, 4), np.float32))
        return output.first(boxes.shape[1]).to(self._device, self._dtype)

    @torch.inference_mode()
    def see_more(self, seen: PictureOutput, boxes: np.ndarray, masks: np.ndarray | None = None) -> PictureOutput:
        """Looks at other regions of a picture that was encoded.

        Args:
            seen: what `encode` gave of it.
            boxes: as `encode` takes them.
            masks: as `encode` takes them.

        Returns:
            The picture with these regions, and none of those that it was encoded with.
        """
        assert isinstance(self._model, Qwen3VL)
        found = self._model.picture(seen.image_tokens, seen.deepstack, seen.grid,
                                    torch.from_numpy(boxes).to(self._device),
                                    None if masks is None else torch.from_numpy(masks).to(self._device))
        return found.to(self._device, self._dtype)

    def _run(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> AnyVisionOutput:
        """In PyTorch where an engine was not built for a picture's size: another camera, or another picture's."""
        try:
            return self._runner(images, boxes, masks)
        except PictureSizeError as error:
            if images.shape not in self._unfit and len(self._unfit) < _SIZES_LOGGED:
                self._unfit.add(images.shape)
                _log.warning("%s: such pictures are encoded in PyTorch; name the camera's size in the engine profile's "
                             "`pictures` and build it anew", error)
            self.counters["frames_without_engine"] += 1
            return self._torch(images, boxes, masks)


def _open(backend: str, loaded: LoadedModel | LoadedQwen3VL, options: VisionOptions, model_folder: Path,
          progress: ProgressCallback | None, write_texts: TextWriter | None) -> Runner:
    if backend == "torch":
        return TorchRunner(loaded.model)
    entry, network = model_entry(model_folder), network_of(loaded.model, options.max_pixels)
    adopt_graph(model_folder, network, entry, options.engine.open_cache(), progress)
    if backend == "tensorrt":
        return open_tensorrt(loaded, network, entry, options.engine, progress, write_texts)
    return open_onnxruntime(loaded, network, entry, options.engine, progress)


def _preference(loaded: LoadedModel | LoadedQwen3VL) -> list[str]:
    """Backends from the fastest.

    ONNX Runtime is no faster than PyTorch with a large transformer (docs/engines.md), and would hold its weights twice.
    """
    wanted = ["tensorrt"] if loaded.model.device.type == "cuda" else []
    return [*wanted, *(["onnxruntime"] if isinstance(loaded, LoadedModel) else []), "torch"]


def _because(device: torch.device, left_out: list[str]) -> str:
    best = f"the fastest backend on {device.type}"
    return best if not left_out else f"the fastest that works on {device.type} ({'; '.join(left_out)})"
