"""A TensorRT plan with its execution contexts and CUDA graphs: what all runners share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import EngineError
from ..cache import CachedEngine
from .library import Library, make_logger

_log = logging.getLogger(__name__)


class Plan:
    """A plan on a GPU.

    Inputs and outputs are torch tensors bound by address; work is queued on the caller's stream and not waited for.

    Attributes:
        device: The GPU.
        precision: Of the engine.
    """

    def __init__(self, library: Library, engine: CachedEngine, device: torch.device, outputs: Sequence[str],
                 kernels: Path | None = None):
        """Loads a plan.

        Args:
            library: that built it.
            engine: the plan, verified.
            device: the GPU.
            outputs: names of what is read of it.
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
            self._types = {name: _torch_type(trt, self._engine.get_tensor_dtype(name)) for name in outputs}
            size = self._engine.device_memory_size_v2
            # All contexts run one after the other on one stream: they share their scratch memory.
            self._scratch = torch.empty(max(size, 1), dtype=torch.uint8, device=device)
            self._kernel_cache = _KernelCache(kernels) if library.ahead_of_time and kernels is not None else None

    @property
    def profiles(self) -> int:
        """How many optimisation profiles the plan has."""
        return int(self._engine.num_optimization_profiles)

    def shapes(self, name: str, profile: int = 0) -> list[tuple[int, ...]]:
        """Least, usual and largest shape of an input in an optimisation profile."""
        return [tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, profile)]

    def context(self, profile: int = 0, captured: bool = False) -> Any:
        """An execution context. captured: whether a CUDA graph is made of it."""
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
        if profile:  # a context begins in the first one
            stream = torch.cuda.current_stream()
            if not context.set_optimization_profile_async(profile, stream.cuda_stream):
                raise EngineError(f"optimisation profile {profile}: {self._logger.last_error}")
            stream.synchronize()
        return context

    def enqueue(self, context: Any, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Queues one run on the caller's stream. Returns its outputs, which are not there yet."""
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineError(f"{name} {tuple(tensor.shape)}: {self._logger.last_error}")
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = []
        for name, kind in self._types.items():
            outputs.append(torch.empty(tuple(context.get_tensor_shape(name)), dtype=kind, device=self.device))
            context.set_tensor_address(name, outputs[-1].data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError(f"the engine failed: {self._logger.last_error}")
        return outputs

    def capture(self, inputs: Mapping[str, torch.Tensor], profile: int = 0) -> Captured:
        """A run as a CUDA graph. It keeps its context, of whose state the shapes it was captured with are a part."""
        context = self.context(profile, captured=True)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Once outside: what a context does only for a new shape must not be captured.
            outputs = self.enqueue(context, inputs)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                queued = context.execute_async_v3(stream.cuda_stream)
        if not queued:
            raise EngineError(f"the engine cannot be captured as a CUDA graph: {self._logger.last_error}")
        torch.cuda.current_stream().wait_stream(stream)
        return Captured(graph, context, tuple(inputs.values()), outputs)

    def keep_kernels(self) -> None:
        """Writes the kernels that tensorrt_rtx has compiled on this card, for the next start."""
        if self._kernel_cache is not None:
            self._kernel_cache.save()


class Captured:
    """A CUDA graph with its inputs and outputs. masked: whether the masks of its inputs are a frame's, not ones."""

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
