"""Engine against PyTorch on stored frames: what differs too much is refused.

Two measures. The relative error of every image token and region embedding, of the first frame also with a mask in every
region, with a limit by precision; and the text that the language model writes about every region, which has to be the
same word for word.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..model.gpt4roi import VisionOutput
from ..model.qwen3_vl import AnyVisionOutput, PictureOutput
from ..regular_file import read_json, write_whole
from . import EngineError
from .graph import MASKED, OUTPUTS
from .precision.calibration import StoredFrame

# uint8 [B, H, W, 3], float32 [B, N, 4] and, where regions have masks, float32 [B, N, P, P] in, vision output out.
Encode = Callable[..., AnyVisionOutput]

LIMITS = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1, "fp8": 2e-1}
_REFERENCE_LIMITS = {torch.float32: LIMITS["fp32"], torch.float16: LIMITS["fp16"], torch.bfloat16: LIMITS["bf16"]}
# Long enough to show a difference, short enough that a gate takes seconds.
_NEW_TOKENS = 24
# Greedy descriptions: (vision output of one frame, its regions' boxes [N, 4], most tokens of a text) → a text for each.
TextWriter = Callable[[AnyVisionOutput, np.ndarray, int], list[str]]


@dataclass(frozen=True)
class GateReport:
    """Kept beside an engine.

    Attributes:
        engine: SHA-256 of the plan.
        key: Digest of its key.
        errors: Largest relative error by what is compared.
        texts: How many were compared.
        same_texts: How many of them were the same.
        reason: Why it was refused, empty where it passed.
    """

    engine: str
    key: str
    precision: str
    frames: int
    limit: float
    errors: dict[str, float]
    texts: int
    same_texts: int
    reason: str
    example: str = ""
    made: str = dataclasses.field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    @property
    def passed(self) -> bool:
        """Whether the engine may be used."""
        return not self.reason

    def write(self, path: Path) -> None:
        """Writes what `read_report` reads."""
        write_whole(path, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())


def read_report(path: Path) -> GateReport | None:
    """The report at a path, None where there is none that this program wrote."""
    try:
        return GateReport(**read_json(path))
    except (OSError, ValueError, TypeError):
        return None


def limit_for(precision: str, reference_type: torch.dtype) -> float:
    """Largest relative error of an engine, given the number format that PyTorch runs in: no closer than that one is."""
    return max(LIMITS[precision], _REFERENCE_LIMITS[reference_type])


def check(engine: Encode, reference: Encode, frames: Sequence[StoredFrame], mask_side: int | None, precision: str,
          limit: float, sha256: str, key: str, write_texts: TextWriter | None = None,
          outputs: Sequence[str] = OUTPUTS) -> GateReport:
    """Compares an engine with PyTorch. One that fails to run is refused like one that is wrong.

    Args:
        engine: runs the engine.
        reference: of `pytorch_reference`.
        frames: what both are given.
        mask_side: bins a side of a region's mask; None where the engine takes no masks.
        precision: of the engine, for the report.
        limit: of `limit_for`.
        sha256: of the engine, for the report.
        key: of the engine, for the report.
        write_texts: the language stage's; None where there is no language model to ask.
        outputs: what is compared of both's outputs.
    """
    compared = (*outputs, *([] if mask_side is None else [MASKED]))
    errors, texts, same, example = dict.fromkeys(compared, 0.0), 0, 0, ""
    for number, frame in enumerate(frames):
        expected = reference(frame.image, frame.boxes)
        try:
            got = engine(frame.image, frame.boxes)
            if number == 0 and mask_side is not None:
                masks = np.broadcast_to(np.tri(mask_side, dtype=np.float32),
                                        (*frame.boxes.shape[:2], mask_side, mask_side)).copy()
                errors[MASKED] = relative_error(engine(frame.image, frame.boxes, masks).region_embeddings,
                                                 reference(frame.image, frame.boxes, masks).region_embeddings)
        except (EngineError, RuntimeError) as error:
            return GateReport(sha256, key, precision, len(frames), limit, errors, texts, same,
                              f"it does not run: {error}")
        for name in outputs:
            errors[name] = max(errors[name], relative_error(getattr(got, name), getattr(expected, name)))
        if write_texts is not None and all(np.isfinite(list(errors.values()))):
            pairs = list(zip(*(write_texts(output, frame.boxes[0], _NEW_TOKENS) for output in (got, expected))))
            texts, same = texts + len(pairs), same + sum(a == b for a, b in pairs)
            example = example or next((f"{frame.name}: {a!r}, PyTorch {b!r}" for a, b in pairs if a != b), "")
    reasons = [f"{name} differs by {error:.2g}" for name, error in errors.items() if not error <= limit]
    if same < texts:
        reasons.append(f"{texts - same} of {texts} texts differ ({example})")
    return GateReport(sha256, key, precision, len(frames), limit, errors, texts, same, "; ".join(reasons), example)


def pytorch_reference(encode: Callable[..., Any], device: torch.device) -> Encode:
    """PyTorch's side of the comparison: a model's `encode` or a VisionNetwork, called with arrays."""

    @torch.inference_mode()
    def reference(*arrays: np.ndarray) -> AnyVisionOutput:
        # By default cuDNN rounds what float32 convolutions read to float16's digits: no measure for others.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            output = encode(*(torch.from_numpy(array).to(device) for array in arrays))
            return output if isinstance(output, PictureOutput) else VisionOutput(*output)

    return reference


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest over the vectors of the last dimension: ‖value − expected‖ / ‖expected‖. Infinite where not finite."""
    value, expected = value.detach().double().cpu(), expected.detach().double().cpu()
    if not torch.isfinite(value).all():
        return float("inf")
    if value.numel() == 0:
        return 0.0
    scale = expected.norm(dim=-1).clamp(min=1e-12)
    return float(((value - expected).norm(dim=-1) / scale).max())
