"""A TensorRT plan behind one call: arrays on the CPU in, tensors on the GPU out.

A runner is used by one thread at a time, as the whole vision stage is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...model.gpt4roi import VisionOutput
from .. import EngineError
from ..cache import CachedEngine
from ..graph import INPUTS, OUTPUTS
from ..pinned_upload import PinnedUpload
from .library import Library
from .loaded_plan import Captured, Plan

_log = logging.getLogger(__name__)


class TensorRTRunner:
    """A plan with its execution contexts.

    Work is queued on the caller's stream, behind that of the call before, and not waited for.

    For the profile's usual numbers of regions a CUDA graph is captured when it is first met, or by `prepare`. Its
    outputs are copied out, on the device, because the next frame overwrites them. An engine that cannot be captured
    runs without graphs.
    """

    def __init__(self, library: Library, engine: CachedEngine, device: torch.device, graph_regions: Sequence[int] = (),
                 kernels: Path | None = None):
        """Loads a plan.

        Args:
            library: that built it.
            engine: the plan, verified.
            device: the GPU.
            graph_regions: numbers of regions for which a CUDA graph is captured.
            kernels: of tensorrt_rtx, where the kernels it compiles on this card are kept between starts.

        Raises:
            EngineError: the plan cannot be used on this GPU.
        """
        self._plan = Plan(library, engine, device, OUTPUTS, kernels)
        self.device, self.precision = device, self._plan.precision
        self.max_frames, self.max_regions = self._plan.shapes(INPUTS[1])[2][:2]
        self._image_shape, self._mask_side = self._plan.shapes(INPUTS[0])[0], self._plan.shapes(INPUTS[2])[2][-1]
        with torch.cuda.device(device):
            self._context = self._plan.context()
            # All calls share scratch memory and the graphs' inputs, whatever streams they come on.
            self._done = torch.cuda.Event()
        self._upload = PinnedUpload()
        self._graph_regions = sorted(graph_regions)
        self._graphs: dict[tuple[int, int], Captured] = {}

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> VisionOutput:
        """Encodes frames (see `VisionNetwork.forward`); masks None: whole boxes.

        Raises:
            EngineError: more frames or regions than the profile takes.
        """
        frames, regions = boxes.shape[:2]
        if frames > self.max_frames or regions > self.max_regions:
            raise EngineError(f"{frames} frames with {regions} regions, the engine's profile takes at most "
                              f"{self.max_frames} with {self.max_regions}")
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().wait_event(self._done)
            graph = self._graph(frames, regions)
            output = self._run(images, boxes, masks) if graph is None else self._replay(graph, images, boxes, masks)
            self._done.record()
            return output

    def prepare(self) -> None:
        """Runs every usual number of regions once, so that no frame waits for it, and keeps the kernels compiled."""
        for regions in (*self._graph_regions, self.max_regions):
            self(np.zeros(self._image_shape, np.uint8), np.zeros((1, regions, 4), np.float32))
        self._plan.keep_kernels()

    def _empty_inputs(self, frames: int, regions: int) -> tuple[torch.Tensor, ...]:
        """Black frames, boxes at the origin, whole masks."""
        return (torch.zeros((frames, *self._image_shape[1:]), dtype=torch.uint8, device=self.device),
                torch.zeros((frames, regions, 4), dtype=torch.float32, device=self.device),
                torch.ones((frames, regions, self._mask_side, self._mask_side), dtype=torch.float32,
                           device=self.device))

    def _run(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None) -> VisionOutput:
        inputs = self._empty_inputs(*boxes.shape[:2])
        for place, (array, target) in enumerate(zip((images, boxes, masks), inputs)):
            if array is not None:
                self._upload.copy(place, np.ascontiguousarray(array), target)
        tokens, embeddings = self._plan.enqueue(self._context, dict(zip(INPUTS, inputs)))
        return VisionOutput(tokens, embeddings)

    def _graph(self, frames: int, regions: int) -> Captured | None:
        """The CUDA graph that takes so many, captured when it is first asked for; None where none does."""
        padded = next((n for n in self._graph_regions if n >= regions), None)
        if padded is None:
            return None
        if (frames, padded) not in self._graphs:
            try:
                self._graphs[frames, padded] = self._plan.capture(dict(zip(INPUTS, self._empty_inputs(frames, padded))))
            except (EngineError, RuntimeError) as error:
                _log.warning("frames run without CUDA graphs: %s", error)
                self._graph_regions = []
                return None
        return self._graphs[frames, padded]

    def _replay(self, graph: Captured, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None) -> VisionOutput:
        regions, padded = boxes.shape[1], graph.inputs[1].shape[1]
        rest = ((0, 0), (0, padded - regions))
        self._upload.copy(0, np.ascontiguousarray(images), graph.inputs[0])
        self._upload.copy(1, np.pad(boxes, (*rest, (0, 0))), graph.inputs[1])
        if masks is not None:
            self._upload.copy(2, np.pad(masks, (*rest, (0, 0), (0, 0))), graph.inputs[2])
        elif graph.masked:
            graph.inputs[2].fill_(1)
        graph.masked = masks is not None
        graph.graph.replay()
        tokens, embeddings = graph.outputs
        return VisionOutput(tokens.clone(), embeddings[:, :regions].clone())
