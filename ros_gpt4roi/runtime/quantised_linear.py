"""Linear layers of few bits, on the kernels that PyTorch itself brings.

torchao's tensor subclasses call the same kernels, but eagerly they cost more per call than they save at batch 1 (2.7
times fp32 on two cores); plain modules do not, save as plain tensors and load without the float weights. On a GPU, int4
runs on the kernel, and in the layout, of torchao's Int4TilePackedTo4dTensor; int8 on one of our own (`int8_product`).
"""
from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

logger = logging.getLogger(__name__)
_INT8_TOKENS = 16  # up to so many tokens the CPU kernel that unpacks in registers is faster than unpacking once
_INT8_GPU_TOKENS = 32  # the same on a GPU
_INT8_GPU_WEIGHTS = 1 << 31  # that the kernel counts in 32 bits
_INT4_TOKENS = 256  # the same for 4 bits
_INT4_ROWS = 64  # the CPU kernel packs outputs in blocks of 64
_BLOCK = 1 << 20  # weights that are converted at once: what is in between is several times as large as they
_INNER_K_TILES = (8, 4, 2)  # of the tile-packed CUDA layout: the first of which that 16 inputs each fill whole
_COMPUTE = torch.bfloat16  # what the weight-only kernels take and give


@cache
def _cpu_multiplies_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class QuantisedLinear(nn.Module, ABC):
    """What the layers of all formats have: tensors that are no parameters, and a bias where the layer has one.

    Attributes:
        in_features: Numbers of an input.
        out_features: Numbers of an output.
    """

    bias: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, **tensors: torch.Tensor | None):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for name, value in tensors.items():
            self.register_buffer(name, value)

    def stored(self) -> dict[str, torch.Tensor]:
        """The tensors that `__init__` takes."""
        return dict(self.named_buffers())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute [..., out] of [..., in]."""
        out = self._product(x.reshape(-1, x.shape[-1]))
        out = out if self.bias is None else out + self.bias
        return out.to(x.dtype).reshape(*x.shape[:-1], -1)

    @abstractmethod
    def _product(self, flat: torch.Tensor) -> torch.Tensor:
        """[n, out] of [n, in], without the bias."""


class Int8Linear(QuantisedLinear):
    """int8 weights, one scale an output; activations as they come (weight-only)."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None):
        """weight: int8 [out, in]. scale: bfloat16 [out]."""
        super().__init__(weight.shape[1], weight.shape[0], weight=weight, scale=scale, bias=bias)

    @classmethod
    def from_float(cls, linear: nn.Linear) -> Int8Linear:
        """Convert a layer of float weights."""
        weight, scale = _int8(linear)
        return cls(weight, scale.to(_COMPUTE), _bias(linear))

    def _product(self, flat: torch.Tensor) -> torch.Tensor:
        on_cpu = flat.device.type == "cpu"
        if on_cpu and len(flat) <= _INT8_TOKENS:
            return torch.ops.aten._weight_int8pack_mm(flat.to(_COMPUTE).contiguous(), self.weight, self.scale)
        if flat.device.type == "cuda" and len(flat) <= _INT8_GPU_TOKENS and not torch.compiler.is_compiling():
            # What compiles the step fuses the widening below with the product by itself.
            multiply = _int8_product(flat.device) if self.weight.numel() < _INT8_GPU_WEIGHTS else None
            if multiply is not None:
                return multiply(flat.to(_COMPUTE), self.weight, self.scale)
        # Without instructions for bfloat16 a CPU takes several times as long in it as in float32.
        flat = flat if on_cpu and not _cpu_multiplies_bfloat16() else flat.to(_COMPUTE)
        return torch.nn.functional.linear(flat, self.weight.to(flat.dtype)) * self.scale


class Int8DynamicLinear(QuantisedLinear):
    """int8 weights, one scale an output; activations become int8 too, one scale a token, whatever else is in the batch.

    On a CPU with the instructions for it, oneDNN multiplies; it alone then holds the weights, in its own layout.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None):
        """weight: int8 [out, in]. scale: float32 [out]."""
        packs = weight.device.type == "cpu" and multiplies_bytes()
        super().__init__(weight.shape[1], weight.shape[0], weight=None if packs else weight, scale=scale, bias=bias)
        self._packed = torch.ops.onednn.qlinear_prepack(weight, None) if packs else None
        self._zeros = torch.zeros(len(scale), dtype=torch.long)

    @classmethod
    def from_float(cls, linear: nn.Linear) -> Int8DynamicLinear:
        """Convert a layer of float weights."""
        return cls(*_int8(linear), _bias(linear))

    def stored(self) -> dict[str, torch.Tensor]:
        """The tensors that `__init__` takes."""
        weight = self.weight if self._packed is None else self._packed.to_dense().t().contiguous()
        return {**super().stored(), "weight": weight}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, in whichever layout."""
        return (self.weight if self._packed is None else self._packed).numel()

    def _product(self, flat: torch.Tensor) -> torch.Tensor:
        wide = flat.float()
        largest = wide.abs().amax(1, keepdim=True).clamp_min_(1e-6)
        steps = wide * (127 / largest)
        if self._packed is not None:
            # The kernel takes unsigned numbers: 128 is its zero.
            quantised = steps.add_(128.5).to(torch.uint8)
            product = torch.ops.onednn.qlinear_pointwise(quantised, 1.0, 128, self._packed, self.scale, self._zeros,
                                                         None, 1.0, 0, torch.float32, "none", [], "")
        else:
            quantised, rows = steps.round_().to(torch.int8), len(flat)
            if flat.device.type == "cuda" and rows <= 16:  # the CUDA kernel takes 17 rows or more
                quantised = torch.nn.functional.pad(quantised, (0, 0, 0, 17 - rows))
            product = torch._int_mm(quantised, self.weight.t())[:rows] * self.scale
        return product.mul_(largest.mul_(1 / 127)).to(flat.dtype)


class Int4Linear(QuantisedLinear):
    """4-bit weights in groups of inputs, each with a scale and a middle; activations in bfloat16.

    Stored as `nibbles` uint8 [out, in / 2] (even inputs in the low half) and `scale_middle` [in / group, out, 2]:
    value = (nibble − 8) · scale + middle. What runs is packed for the device's kernel.
    """

    nibbles: torch.Tensor | None
    packed: torch.Tensor
    scale_middle: torch.Tensor

    def __init__(self, nibbles: torch.Tensor, scale_middle: torch.Tensor, bias: torch.Tensor | None = None):
        outputs, group = nibbles.shape[0], nibbles.shape[1] * 2 // scale_middle.shape[0]
        padding = -outputs % _INT4_ROWS
        if padding:
            nibbles = torch.nn.functional.pad(nibbles, (0, 0, 0, padding))
            scale_middle = torch.nn.functional.pad(scale_middle, (0, 0, 0, padding))
        if nibbles.device.type == "cuda":
            # This layout holds the even input in the high half.
            swapped = (nibbles << 4) | (nibbles >> 4)
            packed = torch.ops.aten._convert_weight_to_int4pack(swapped, inner_tiles(2 * nibbles.shape[1]))
        else:
            packed, size = torch.empty_like(nibbles), _rows(2 * nibbles.shape[1])
            for rows, kept in zip(nibbles.split(size), packed.split(size)):
                kept.copy_(torch.ops.aten._convert_weight_to_int4pack_for_cpu(_unpack(rows), 1))
        known = nibbles.device.type == "cpu" and _cpu_layout_is_known()
        super().__init__(2 * nibbles.shape[1], outputs,
                         nibbles=None if known else nibbles,  # else `packed` can be read back
                         packed=packed, scale_middle=scale_middle.contiguous(), bias=bias)
        self.group = group

    @classmethod
    def from_float(cls, linear: nn.Linear, group: int) -> Int4Linear:
        """Convert a layer of float weights; so many inputs share a scale."""
        weight, (outputs, inputs) = linear.weight.detach(), linear.weight.shape
        nibbles = torch.empty(outputs, inputs // 2, dtype=torch.uint8, device=weight.device)
        scale_middle = torch.empty(inputs // group, outputs, 2, dtype=_COMPUTE, device=weight.device)
        size = _rows(inputs)
        for rows, kept, scales in zip(weight.split(size), nibbles.split(size), scale_middle.split(size, 1)):
            values, scale, middle = _int4(rows.float(), group)
            _check_finite(scale, weight)
            kept.copy_(_pack(values.flatten(1).to(torch.uint8)))
            scales.copy_(torch.cat([scale, middle], -1).transpose(0, 1))
        return cls(nibbles, scale_middle, _bias(linear))

    def stored(self) -> dict[str, torch.Tensor]:
        """The tensors that `__init__` takes."""
        nibbles = _pack(self._values().to(torch.uint8)) if self.nibbles is None else self.nibbles
        tensors = {**super().stored(), "nibbles": nibbles[:self.out_features],
                   "scale_middle": self.scale_middle[:, :self.out_features].contiguous()}
        del tensors["packed"]
        return tensors

    def dequantised(self) -> torch.Tensor:
        """The weights [out, in] in the format of the scales, for when there are many tokens."""
        values = self._values().to(self.scale_middle.dtype).reshape(self.scale_middle.shape[1], -1, self.group)
        scale, middle = self.scale_middle.transpose(0, 1).unsqueeze(-1).unbind(2)
        return ((values - 8) * scale + middle).flatten(1)

    def _values(self) -> torch.Tensor:
        """The 4-bit values [out, in] one by one."""
        return _read_cpu_layout(self.packed) if self.nibbles is None else _unpack(self.nibbles)

    def _product(self, flat: torch.Tensor) -> torch.Tensor:
        flat = flat.to(_COMPUTE)
        if flat.device.type == "cuda":
            out = torch.ops.aten._weight_int4pack_mm(flat, self.packed, self.group, self.scale_middle)
        elif len(flat) <= _INT4_TOKENS:
            out = torch.ops.aten._weight_int4pack_mm_for_cpu(flat.contiguous(), self.packed, self.group,
                                                             self.scale_middle)
        else:
            out = torch.nn.functional.linear(flat, self.dequantised())
        return out[:, :self.out_features]


@cache
def _int8_product(device: torch.device) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """What multiplies few tokens with int8 weights on a GPU; None where nothing is better than to widen them first."""
    try:
        from .int8_product import try_out  # Triton comes with PyTorch's builds for NVIDIA GPUs only

        return try_out(device)
    except Exception as error:  # no Triton, no compiler, a GPU that it does not know, wrong numbers
        logger.warning("int8 weights are widened at each step on %s, which takes longer: %s: %s", device,
                       type(error).__name__, error)
        return None


def inner_tiles(inputs: int) -> int:
    """How many tiles of 16 inputs the CUDA layout of 4 bits packs together, for a layer of so many inputs."""
    return next(tiles for tiles in _INNER_K_TILES if inputs % (16 * tiles) == 0)


def _bias(linear: nn.Linear) -> torch.Tensor | None:
    # A copy: the float weights may be in use.
    return None if linear.bias is None else linear.bias.detach().to(_COMPUTE, copy=True)


def _rows(inputs: int) -> int:
    """How many outputs of a layer are converted at once: a multiple of what the int4 kernel packs together."""
    return max(1, _BLOCK // inputs // _INT4_ROWS) * _INT4_ROWS


def _int8(linear: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights as int8 [out, in], and the scale [out] of each output."""
    weight = linear.weight.detach()
    values = torch.empty_like(weight, dtype=torch.int8, memory_format=torch.contiguous_format)
    scales = []
    for block, kept in zip(weight.split(_rows(linear.in_features)), values.split(_rows(linear.in_features))):
        block = block.float()
        scale = block.abs().amax(1).clamp_min(1e-8) / 127
        _check_finite(scale, weight)
        kept.copy_((block / scale.unsqueeze(1)).round_())
        scales.append(scale)
    return values, torch.cat(scales)


def _int4(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round float32 weights [out, in] to 4 bits.

    Returns:
        Values from 0 to 15 [out, in / group, group], and scale and middle of each group [out, in / group, 1].
    """
    weight = weight.unflatten(1, (-1, group))
    low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
    # Rounded to what the kernel will hold before the nibbles are chosen: they make up for it.
    scale = ((high - low).clamp_min(1e-8) / 15).to(_COMPUTE)
    middle = (low + scale.float() * 8).to(_COMPUTE)
    return (((weight - middle.float()) / scale.float()).round() + 8).clamp(0, 15), scale, middle


def _check_finite(scale: torch.Tensor, weight: torch.Tensor) -> None:
    # As integers they would be finite again, and the model would go on in silence.
    if not torch.isfinite(scale).all():
        raise ValueError(f"the weights of a linear layer, {list(weight.shape)}, are not finite")


def round_to_int4(weight: torch.Tensor, group: int) -> torch.Tensor:
    """What 4 bits leave of float32 weights [out, in], in float32."""
    nibbles, scale, middle = _int4(weight, group)
    _check_finite(scale, weight)
    return ((nibbles - 8) * scale.float() + middle.float()).flatten(1)


@cache
def multiplies_bytes() -> bool:
    """Whether the CPU adds products of bytes without saturating (VNNI), which is also where oneDNN is fast."""
    able = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and bool(able.get("avx512_vnni") or able.get("avx_vnni"))


def _pack(values: torch.Tensor) -> torch.Tensor:
    """Put 4-bit values two in a byte: uint8 [out, in] → [out, in / 2]."""
    return values[:, ::2] | values[:, 1::2] << 4


def _unpack(nibbles: torch.Tensor) -> torch.Tensor:
    """[out, in / 2] → int32 [out, in]."""
    return torch.stack([nibbles & 15, nibbles >> 4], -1).flatten(1).int()


def _read_cpu_layout(packed: torch.Tensor) -> torch.Tensor:
    """Undo the CPU kernel's packing: per 64 outputs and input, 32 bytes of outputs n (low half) and n + 32 (high)."""
    inputs = packed.shape[1] * 2
    blocks = packed.reshape(-1, inputs, _INT4_ROWS // 2)
    return torch.cat([blocks & 15, blocks >> 4], -1).transpose(1, 2).reshape(-1, inputs)


@cache
def _cpu_layout_is_known() -> bool:
    """The packing depends on the CPU's vector width; only that of 512 bits is read back."""
    values = (torch.arange(_INT4_ROWS * 64, dtype=torch.int32) * 7 // 3 % 16).reshape(_INT4_ROWS, 64)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
    return packed.numel() == values.numel() // 2 and bool((_read_cpu_layout(packed) == values).all())
