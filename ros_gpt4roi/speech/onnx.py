"""ONNX models in a folder, by onnx-asr: NeMo Conformer and Parakeet, Kaldi Zipformer, GigaAM, Whisper."""
from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_asr
import onnxruntime

from .audio import Samples
from .recogniser import Recogniser, RecogniserError, RecogniserOptions, Transcript


class OnnxRecogniser(Recogniser):
    """A model of onnx-asr. It cannot be told the scene's words."""

    def __init__(self, options: RecogniserOptions) -> None:
        folder = Path(options.model).expanduser()
        if not options.model or not folder.is_dir():
            raise RecogniserError(f"recogniser.model is {options.model!r}; expected the folder of an ONNX model")
        providers = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider"], "auto": None}[options.device]
        session = _session_options(options.threads)
        try:
            self._model = onnx_asr.load_model(options.onnx_type, folder, sess_options=session,
                                              providers=providers).with_timestamps()
        except Exception as error:  # whatever onnx-asr and ONNX Runtime raise for files that are none
            raise RecogniserError(f"recogniser.model {options.model!r} cannot be loaded as {options.onnx_type}: "
                                  f"{error}") from error
        self.name = f"onnx {options.onnx_type} ({folder.name})"

    def transcribe(self, samples: Samples, words: Sequence[str] = ()) -> Transcript:
        """See `Recogniser`."""
        result = self._model.recognize((samples / 32768).astype(np.float32), sample_rate=16_000)
        logprobs = result.logprobs
        return Transcript(result.text.strip(), math.exp(float(np.mean(logprobs))) if logprobs else None)


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return options
