"""The float32 graph in ONNX Runtime: arrays on the CPU in, tensors on the device out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from ..model.checkpoint import LoadedModel, LoadedQwen3VL
from ..model.gpt4roi import VisionOutput
from ..model.qwen3_vl import PictureOutput
from . import EngineError
from .build_process import ProgressCallback
from .export import AnyNetwork, provide_onnx
from .gate import check, limit_for, pytorch_reference
from .graph import INPUTS, onnx_files, session_options
from .picture_network import PictureNetwork
from .pinned_upload import PinnedUpload
from .profiles import EngineOptions
from .tensorrt.library import this_gpu

_NUMPY = {torch.uint8: np.uint8, torch.float32: np.float32, torch.float16: np.float16}


class _Graph:
    """An ONNX graph in ONNX Runtime, on the CPU or through its CUDA provider.

    Memory of torch tensors is bound, so that nothing is copied that need not be.
    """

    def __init__(self, path: Path, device: torch.device, precision: str, threads: int | None = None):
        self.device, self.precision = device, precision
        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise EngineError(f"ONNX Runtime {onnxruntime.__version__} has no {provider}, expected the package "
                              "onnxruntime-gpu for a GPU")
        # TensorFloat-32 has float16's digits: the gate of a float32 graph would refuse it.
        settings = [{"device_id": device.index or 0, "use_tf32": "0"}] if device.type == "cuda" else [{}]
        try:
            options = session_options(threads or torch.get_num_threads())
            # ONNX Runtime would map a file of weights as long as it runs: what happens to the file would reach the
            # answers, and cutting it would end the process.
            weights = {file.name: file.read_bytes() for file in onnx_files(path)[1:]}
            options.add_external_initializers_from_files_in_memory(
                list(weights), list(weights.values()), [len(data) for data in weights.values()])
            self._session = onnxruntime.InferenceSession(str(path), options, [provider], settings)
        except Exception as error:  # its exceptions have no common base class
            raise EngineError(f"ONNX Runtime refuses {path}: {error}") from error
        self._upload = PinnedUpload()
        self._type = {"fp32": torch.float32, "fp16": torch.float16}[precision]
        self.inputs = {value.name: value.shape for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Sequence[torch.Tensor], shapes: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Outputs of given shapes. inputs: on the device, in the graph's order."""
        outputs = [torch.empty(tuple(shape), dtype=self._type, device=self.device) for shape in shapes]
        binding, index = self._session.io_binding(), self.device.index or 0
        for bind, names, tensors in ((binding.bind_input, self.inputs, inputs),
                                     (binding.bind_output, self._outputs, outputs)):
            for name, tensor in zip(names, tensors, strict=True):
                bind(name, self.device.type, index, _NUMPY[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        if self.device.type == "cuda":
            # Its own stream knows nothing of ours.
            torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding)
        return outputs

    def place(self, place: int, array: np.ndarray) -> torch.Tensor:
        array = np.ascontiguousarray(array)
        tensor = torch.from_numpy(array)
        if self.device.type == "cpu":
            return tensor
        target = torch.empty_like(tensor, device=self.device)
        self._upload.copy(place, array, target)
        return target


class OnnxRuntimeRunner:
    """The graph of a VisionNetwork."""

    def __init__(self, path: Path, device: torch.device, output_shapes: Sequence[Sequence[int]], precision: str,
                 threads: int | None = None):
        """Loads a graph.

        Args:
            path: the graph.
            device: where it runs.
            output_shapes: (T, D) of the image tokens, (K, D) of a region.
            precision: of the graph.
            threads: of the CPU, None: as PyTorch uses.

        Raises:
            EngineError: ONNX Runtime has no provider for the device or refuses the graph.
        """
        self._graph, self._shapes, self.precision = _Graph(path, device, precision, threads), output_shapes, precision
        self._mask_side = self._graph.inputs[INPUTS[2]][-1]

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> VisionOutput:
        """Encodes frames (see `VisionNetwork.forward`); masks None: whole boxes."""
        (frames, regions), graph = boxes.shape[:2], self._graph
        inputs = [graph.place(place, array) for place, array in enumerate((images, boxes, masks)) if array is not None]
        if masks is None:
            inputs.append(torch.ones(frames, regions, self._mask_side, self._mask_side, device=graph.device))
        tokens, embeddings = graph.run(inputs, ((frames, *self._shapes[0]), (frames, regions, *self._shapes[1])))
        return VisionOutput(tokens, embeddings)


class OnnxPictureRunner:
    """The graph of a PictureNetwork, for pictures of any size."""

    def __init__(self, path: Path, device: torch.device, network: PictureNetwork, precision: str,
                 threads: int | None = None):
        """Loads a graph; the arguments, and what it raises, are as of `OnnxRuntimeRunner`."""
        self._graph, self._network, self.precision = _Graph(path, device, precision, threads), network, precision

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> PictureOutput:
        """Encodes a picture (see `Qwen3VL.encode`)."""
        shapes = self._network.output_shapes(*images.shape[1:3])
        outputs = self._graph.run([self._graph.place(0, images)], shapes)
        return self._network.picture(outputs, images, boxes, masks)


def open_onnxruntime(loaded: LoadedModel | LoadedQwen3VL, network: AnyNetwork, entry: str, options: EngineOptions,
                     progress: ProgressCallback | None = None) -> OnnxRuntimeRunner | OnnxPictureRunner:
    """An ONNX Runtime runner of the float32 graph, on the model's device, that has passed the gate.

    Args:
        loaded: the model.
        network: what becomes its graph, of `export.network_of`.
        entry: its name in the cache, of `cache.model_entry`.
        options: where the cache is, and whether what is missing is built.
        progress: called with how far the export has come.

    Raises:
        EngineError: the graph is missing or cannot be exported, or ONNX Runtime refuses it or computes something else.
    """
    device = loaded.model.device
    gpu = this_gpu(device)
    profile = options.find_profile(gpu.name if gpu else None)
    graph = provide_onnx(network, entry, options.open_cache(), profile.limits, options.build == "auto", progress)
    runner: OnnxRuntimeRunner | OnnxPictureRunner
    if isinstance(network, PictureNetwork):
        runner = OnnxPictureRunner(graph.path, device, network, "fp32")
    else:
        runner = OnnxRuntimeRunner(graph.path, device, network.output_shapes, "fp32")
    frames = network.frames(options.frames_folder, profile)[:1]
    report = check(runner, pytorch_reference(loaded.model.encode, device), frames, network.mask_side, "fp32",
                   limit_for("fp32", loaded.model.dtype), graph.digest, graph.digest, outputs=network.outputs)
    if not report.passed:
        raise EngineError(f"ONNX Runtime and PyTorch disagree: {report.reason}")
    return runner
