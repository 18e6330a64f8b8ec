"""A TensorRT plan of an encoder of pictures: a few sizes, each with an optimisation profile and a CUDA graph."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from ...model.qwen3_vl import PictureOutput
from .. import EngineError, PictureSizeError
from ..cache import CachedEngine
from ..picture_network import PictureNetwork
from ..pinned_upload import PinnedUpload
from .library import Library
from .loaded_plan import Captured, Plan

_log = logging.getLogger(__name__)


class TensorRTPictureRunner:
    """A plan for pictures of the sizes that it was built for.

    Work is queued on the caller's stream, behind that of the call before, and not waited for. A CUDA graph is captured
    for each size when it is first met, or by `prepare`; an engine that cannot be captured runs without.
    """

    def __init__(self, library: Library, engine: CachedEngine, device: torch.device, network: PictureNetwork,
                 kernels: Path | None = None):
        """Loads a plan. Arguments and errors are those of `TensorRTRunner`; network: what the plan was built of."""
        self._plan, self._network = Plan(library, engine, device, network.outputs, kernels), network
        self.device, self.precision = device, self._plan.precision
        self._input = network.inputs[0]
        #: Height and width of each optimisation profile.
        self.sizes = {self._plan.shapes(self._input, place)[2][1:3]: place for place in range(self._plan.profiles)}
        with torch.cuda.device(device):
            self._done = torch.cuda.Event()
        self._upload, self._captures = PinnedUpload(), True
        self._graphs: dict[int, Captured] = {}
        self._contexts: dict[int, object] = {}

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> PictureOutput:
        """Encodes a picture (see `Qwen3VL.encode`).

        Raises:
            PictureSizeError: the plan was not built for its size.
        """
        place = self.sizes.get(images.shape[1:3])
        if place is None:
            built = ", ".join(f"{width}x{height}" for height, width in self.sizes)
            raise PictureSizeError(f"a picture of {images.shape[2]}x{images.shape[1]}, the engine was built for "
                                   f"{built}")
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().wait_event(self._done)
            outputs = self._encode(place, np.ascontiguousarray(images))
            self._done.record()
            return self._network.picture(outputs, images, boxes, masks)

    def prepare(self) -> None:
        """Runs every size once, so that no frame waits for it, and keeps the kernels compiled."""
        for height, width in self.sizes:
            self(np.zeros((1, height, width, 3), np.uint8), np.zeros((1, 1, 4), np.float32))
        self._plan.keep_kernels()

    def _encode(self, place: int, images: np.ndarray) -> list[torch.Tensor]:
        if self._captures and place not in self._graphs:
            try:
                self._graphs[place] = self._plan.capture({self._input: self._empty(images)}, place)
            except (EngineError, RuntimeError) as error:
                _log.warning("pictures run without CUDA graphs: %s", error)
                self._captures = False
        if (graph := self._graphs.get(place)) is not None:
            self._upload.copy(0, images, graph.inputs[0])
            graph.graph.replay()
            # The next picture overwrites them.
            return [output.clone() for output in graph.outputs]
        if place not in self._contexts:
            self._contexts[place] = self._plan.context(place)
        picture = self._empty(images)
        self._upload.copy(0, images, picture)
        return self._plan.enqueue(self._contexts[place], {self._input: picture})

    def _empty(self, images: np.ndarray) -> torch.Tensor:
        return torch.zeros(images.shape, dtype=torch.uint8, device=self.device)
