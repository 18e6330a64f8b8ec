"""Few tokens times int8 weights on an NVIDIA GPU, which reads the weights as they are and widens them in registers.

torchao (0.18) has no such kernel for int8 weights alone: run eagerly, it widens the whole matrix at each call. Its
kernel for 4 bits is PyTorch's own, which `quantised_linear` calls.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

MOST_TOKENS = 32  # up to so many it is the weights' bytes that take the time; more are worth widening them once
_OUTPUTS, _INPUTS = 16, 128  # that a program of the GPU takes at once; few outputs, so that there are many programs
_WARPS, _STAGES = 4, 4
_AGREE = 2e-2  # relative; bfloat16 has 8 bits

# Tokens [n, in] in bfloat16, weights int8 [out, in] and scales bfloat16 [out] → [n, out].
Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@triton.jit  # type: ignore[untyped-decorator]
def kernel(x, weight, scale, out, tokens, outputs, inputs,  # type: ignore[no-untyped-def]
           TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr):
    """Compute OUTPUTS outputs of all tokens, of which there are TOKENS at most."""
    rows, columns = tl.arange(0, TOKENS), tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((TOKENS, OUTPUTS), tl.float32)
    for start in range(0, inputs, INPUTS):
        places = start + tl.arange(0, INPUTS)
        fed = tl.load(x + rows[:, None] * inputs + places[None, :],
                      mask=(rows[:, None] < tokens) & (places[None, :] < inputs), other=0.0)
        read = tl.load(weight + columns[None, :] * inputs + places[:, None],
                       mask=(columns[None, :] < outputs) & (places[:, None] < inputs), other=0)
        total = tl.dot(fed, read.to(fed.dtype), total)
    scales = tl.load(scale + columns, mask=columns < outputs, other=0.0).to(tl.float32)
    tl.store(out + rows[:, None] * outputs + columns[None, :], (total * scales[None, :]).to(out.dtype.element_ty),
             mask=(rows[:, None] < tokens) & (columns[None, :] < outputs))


def multiply(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """As `Product`, of at most MOST_TOKENS tokens."""
    (tokens, inputs), outputs = x.shape, len(weight)
    out = x.new_empty(tokens, outputs)
    kernel[(triton.cdiv(outputs, _OUTPUTS),)](
        x.contiguous(), weight, scale, out, tokens, outputs, inputs, TOKENS=16 if tokens <= 16 else MOST_TOKENS,
        OUTPUTS=_OUTPUTS, INPUTS=_INPUTS, num_warps=_WARPS, num_stages=_STAGES)
    return out


def widened(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """As `Product`, by PyTorch, of any number of tokens."""
    return torch.nn.functional.linear(x, weight.to(x.dtype)) * scale


def try_out(device: torch.device) -> Product:
    """Give `multiply`, after it has been compared with PyTorch on a device.

    Raises:
        RuntimeError: It gives something else there, or does not run; also whatever else Triton raises.
    """
    random = torch.Generator(device).manual_seed(0)
    outputs, inputs = 3 * _OUTPUTS + 1, 2 * _INPUTS + 32
    weight = torch.randint(-127, 128, (outputs, inputs), generator=random, dtype=torch.int8, device=device)
    scale = torch.rand(outputs, generator=random, device=device).bfloat16()
    for tokens in (1, 16, 17, MOST_TOKENS):
        x = torch.randn(tokens, inputs, generator=random, device=device).bfloat16()
        expected = widened(x.float(), weight, scale.float())
        off = float((multiply(x, weight, scale).float() - expected).norm() / expected.norm())
        if not off < _AGREE:
            raise RuntimeError(f"the kernel is {off:.1e} off")
    return multiply
