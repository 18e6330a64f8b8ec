"""A TensorRT plan behind one call: arrays on the CPU in, tensors on the GPU out.

A runner is used by one thread at a time, as the whole vision stage is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...model.gpt4roi import VisionOutput
from .. import EngineError
from ..cache import CachedEngine
from ..graph import INPUTS, OUTPUTS
from ..pinned_upload import PinnedUpload
from .library import Library, make_logger

_log = logging.getLogger(__name__)


class TensorRTRunner:
    """A plan with its execution contexts.

    Inputs and outputs are torch tensors bound by address; work is queued on the caller's stream, behind that of the
    call before, and not waited for.

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
        self.device, self.precision, self._library = device, engine.header["key"]["precision"], library
        trt = library.module
        self._logger = make_logger(trt)
        with torch.cuda.device(device):
            self._runtime = trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine.plan)
            if self._engine is None:
                raise EngineError(f"{library.name} {library.version} refuses {engine.path}: {self._logger.last_error}")
            self._types = {name: _torch_type(trt, self._engine.get_tensor_dtype(name)) for name in OUTPUTS}
            self.max_frames, self.max_regions = tuple(self._engine.get_tensor_profile_shape(INPUTS[1], 0)[2])[:2]
            self._mask_side = tuple(self._engine.get_tensor_profile_shape(INPUTS[2], 0)[2])[-1]
            size = self._engine.device_memory_size_v2
            # All contexts run one after the other on one stream: they share their scratch memory.
            self._scratch = torch.empty(max(size, 1), dtype=torch.uint8, device=device)
            self._kernel_cache = _KernelCache(kernels) if library.ahead_of_time and kernels is not None else None
            self._context = self._make_context()
            # All calls share scratch memory and the graphs' inputs, whatever streams they come on.
            self._done = torch.cuda.Event()
        self._upload = PinnedUpload()
        self._graph_regions = sorted(graph_regions)
        self._graphs: dict[tuple[int, int], _Graph] = {}

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
        image_shape = tuple(self._engine.get_tensor_profile_shape(INPUTS[0], 0)[0])
        for regions in (*self._graph_regions, self.max_regions):
            self(np.zeros(image_shape, np.uint8), np.zeros((1, regions, 4), np.float32))
        if self._kernel_cache is not None:
            self._kernel_cache.save()

    def _make_context(self, captured: bool = False) -> Any:
        trt = self._library.module
        settings = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._kernel_cache is not None:
            # TensorRT of JetPack 6 has no runtime configurations; only tensorrt_rtx needs them.
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(settings)
            if captured:
                # A graph keeps the kernels it was captured with: the ones made for its shapes, not their stand-ins.
                eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = eager
            self._kernel_cache.attach(config)
            settings = config
        context = self._engine.create_execution_context(settings)
        if context is None:
            raise EngineError(f"no execution context: {self._logger.last_error}")
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        return context

    def _empty_inputs(self, frames: int, regions: int) -> tuple[torch.Tensor, ...]:
        """Black frames, boxes at the origin, whole masks."""
        images = (frames, *tuple(self._engine.get_tensor_shape(INPUTS[0]))[1:])
        return (torch.zeros(images, dtype=torch.uint8, device=self.device),
                torch.zeros((frames, regions, 4), dtype=torch.float32, device=self.device),
                torch.ones((frames, regions, self._mask_side, self._mask_side), dtype=torch.float32,
                           device=self.device))

    def _enqueue(self, context: Any, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        for name, tensor in zip(INPUTS, inputs):
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineError(f"{name} {tuple(tensor.shape)}: {self._logger.last_error}")
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = []
        for name in OUTPUTS:
            shape = tuple(context.get_tensor_shape(name))
            outputs.append(torch.empty(shape, dtype=self._types[name], device=self.device))
            context.set_tensor_address(name, outputs[-1].data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError(f"the engine failed: {self._logger.last_error}")
        return outputs

    def _run(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None) -> VisionOutput:
        inputs = self._empty_inputs(*boxes.shape[:2])
        for place, (array, target) in enumerate(zip((images, boxes, masks), inputs)):
            if array is not None:
                self._upload.copy(place, np.ascontiguousarray(array), target)
        tokens, embeddings = self._enqueue(self._context, inputs)
        return VisionOutput(tokens, embeddings)

    def _graph(self, frames: int, regions: int) -> _Graph | None:
        """The CUDA graph that takes so many, captured when it is first asked for; None where none does."""
        padded = next((n for n in self._graph_regions if n >= regions), None)
        if padded is None:
            return None
        if (frames, padded) not in self._graphs:
            try:
                self._graphs[frames, padded] = self._capture(frames, padded)
            except (EngineError, RuntimeError) as error:
                _log.warning("frames run without CUDA graphs: %s", error)
                self._graph_regions = []
                return None
        return self._graphs[frames, padded]

    def _replay(self, graph: _Graph, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None) -> VisionOutput:
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

    def _capture(self, frames: int, regions: int) -> _Graph:
        """A graph keeps its context: the shapes it was captured with are part of the context's state."""
        context, inputs = self._make_context(captured=True), self._empty_inputs(frames, regions)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Once outside: what a context does only for a new shape must not be captured.
            outputs = self._enqueue(context, inputs)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                queued = context.execute_async_v3(stream.cuda_stream)
        if not queued:
            raise EngineError(f"the engine cannot be captured as a CUDA graph: {self._logger.last_error}")
        torch.cuda.current_stream().wait_stream(stream)
        return _Graph(graph, context, inputs, outputs)


class _Graph:
    """masked: whether the masks of its inputs are those of a frame, not ones."""

    def __init__(self, graph: torch.cuda.CUDAGraph, context: Any, inputs: tuple[torch.Tensor, ...],
                 outputs: list[torch.Tensor]):
        self.graph, self.context, self.inputs, self.outputs, self.masked = graph, context, inputs, outputs, False


class _KernelCache:
    """Kernels that tensorrt_rtx compiled on this card. The library checks a file against card and version itself."""

    def __init__(self, path: Path):
        self._path = path
        self._cache: Any = None

    def attach(self, config: Any) -> None:
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._path.is_file() and not self._cache.deserialize(self._path.read_bytes()):
                _log.info("%s: kernels of another card or version, they are compiled anew", self._path)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        try:
            partial.write_bytes(memoryview(self._cache.serialize()))
            partial.replace(self._path)
        except OSError as error:
            _log.warning("%s: %s, kernels are compiled anew at the next start", self._path, error.strerror)


def _torch_type(trt: Any, dtype: Any) -> torch.dtype:
    return {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16}[dtype]
