"""The vision stage: frames and boxes in, image tokens and region embeddings out. One call, three backends."""
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..configuration import Configuration, setting
from ..engine.errors import EngineError
from ..engine.gate import TextWriter
from ..engine.guard import ProgressCallback
from ..engine.opening import EngineOptions, open_onnxruntime, open_tensorrt
from ..model.checkpoint import LoadedModel
from ..model.gpt4roi import GPT4RoI, VisionOutput

_log = logging.getLogger(__name__)



@dataclass(frozen=True)
class VisionOptions(Configuration):
    """How the vision stage is run."""

    backend: str = setting("auto", "Backend; auto: the first that works of TensorRT (on a GPU), ONNX Runtime, PyTorch.",
                           choices=("auto", "tensorrt", "onnxruntime", "torch"))
    engine: EngineOptions = EngineOptions()


class TorchRunner:
    """Encoder, projector and region extractor of the model itself."""

    def __init__(self, model: GPT4RoI):
        self._model, self.precision = model, str(model.dtype).removeprefix("torch.")

    def __call__(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> VisionOutput:
        # Boxes stay in float32 whatever the model is in: half precision is too coarse for coordinates.
        return self._model.encode(*(None if array is None else torch.from_numpy(array).to(self._model.device)
                                    for array in (images, boxes, masks)))


class VisionStage:
    """Runs the vision part of a model. Not thread-safe: one worker owns it.

    backend: which one runs ("tensorrt", "onnxruntime", "torch"). reason: why it was taken, in words for people.
    """

    def __init__(self, model: GPT4RoI, backend: str = "torch", runner: Callable[..., VisionOutput] | None = None,
                 reason: str = "asked for"):
        """The PyTorch backend; `open` takes others."""
        self._device, self._dtype = model.device, model.dtype
        self._runner = runner or TorchRunner(model)
        self.backend, self.reason = backend, reason

    @classmethod
    def open(cls, loaded: LoadedModel, options: VisionOptions = VisionOptions(), slot: str = "model",
             progress: ProgressCallback | None = None, write_texts: TextWriter | None = None) -> VisionStage:
        """Takes a backend, builds its engine where it is missing (`options.engine`), and checks it against PyTorch.

        slot: name of the model in the engine cache, of `engine.provide.model_slot`. progress: called with how far
        building has come; it must return at once. write_texts: what an engine is compared with PyTorch by, beside numbers.
        Raises EngineError where the backend asked for does not work here; "auto" raises nothing and ends with PyTorch.
        """
        wanted = _preference(loaded.model.device) if options.backend == "auto" else [options.backend]
        left_out = []
        for backend in wanted:
            try:
                runner = _OPENERS[backend](loaded, slot, options.engine, progress, write_texts)
            except (EngineError, OSError, RuntimeError) as error:  # the last is PyTorch's, of a GPU without memory left
                if options.backend != "auto":
                    raise
                left_out.append(f"{backend}: {error}")
                continue
            reason = "asked for" if options.backend != "auto" else _because(backend, loaded.model.device, left_out)
            log = _log.warning if left_out else _log.info
            log("vision stage runs on %s (%s, %s): %s", backend, loaded.model.device, runner.precision, reason)
            return cls(loaded.model, backend, runner, reason)
        raise AssertionError("PyTorch is always last and always works")

    @torch.inference_mode()
    def encode(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> VisionOutput:
        """images: uint8 RGB [B, S, S, 3]. boxes: float32 [B, N, 4] x1 y1 x2 y2 in units of the image; N may be 0.
        masks: float32 [B, N, P, P] in 0..1, weights of the regions' bins (see `model.shapes`), or None: whole boxes.

        Returns image tokens [B, T, D] and region embeddings [B, N, K, D] in the model's number format on its device;
        on a GPU they are queued on the caller's stream. Raises EngineError beyond the shapes an engine was built for.
        """
        # At least one box: the region extractor is never asked about none.
        if boxes.shape[1]:
            tokens, regions = self._runner(images, boxes, masks)
        else:
            tokens, regions = self._runner(images, np.zeros((boxes.shape[0], 1, 4), np.float32))
        return VisionOutput(tokens.to(self._device, self._dtype),
                            regions[:, :boxes.shape[1]].to(self._device, self._dtype))


def _open_torch(loaded: LoadedModel, _slot: str, _options: EngineOptions,
                _progress: ProgressCallback | None, _write_texts: TextWriter | None) -> TorchRunner:
    return TorchRunner(loaded.model)


_OPENERS = {"tensorrt": open_tensorrt, "onnxruntime": open_onnxruntime, "torch": _open_torch}


def _preference(device: torch.device) -> list[str]:
    return ["tensorrt", "onnxruntime", "torch"] if device.type == "cuda" else ["onnxruntime", "torch"]


def _because(backend: str, device: torch.device, left_out: list[str]) -> str:
    best = f"the fastest backend on {device.type}"
    return best if not left_out else f"the fastest that works on {device.type} ({'; '.join(left_out)})"
