"""Label Studio's brush masks: run lengths of an RGBA picture, packed bit by bit.

The format is that of @thi.ng/rle-pack, which Label Studio's editor uses: 32 bits of how many values there are, 5 of a
value's width, four times 4 of the widths that run lengths have; then, for each run, a bit whether its values are all
the same, 2 bits of which width its length has, the length less one, and the value or values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_LONGEST = 1 << _LENGTH_BITS[-1]
_INSIDE = 128  # of the 255 of a pixel's alpha; the brush has a soft rim


def encode_brush(mask: np.ndarray) -> list[int]:
    """Write a mask as Label Studio's editor does.

    Args:
        mask: bool [H, W].

    Returns:
        The bytes.
    """
    flat = mask.reshape(-1)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    parts = [f"{flat.size * 4:032b}{_VALUE_BITS - 1:05b}", *(f"{bits - 1:04b}" for bits in _LENGTH_BITS)]
    start = 0
    for end in ends.tolist():
        value, left = 255 if flat[start] else 0, (end - start) * 4
        while left:
            length = min(left, _LONGEST)
            width = next(place for place, bits in enumerate(_LENGTH_BITS) if length <= 1 << bits)
            parts.append(f"1{width:02b}{length - 1:0{_LENGTH_BITS[width]}b}{value:0{_VALUE_BITS}b}")
            left -= length
        start = end
    bits = "".join(parts)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def decode_brush(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Read a mask.

    Args:
        rle: The bytes.
        size: (width, height) of the picture.

    Returns:
        bool [H, W].

    Raises:
        ValueError: They are no such mask, or one of a picture of another size.
    """
    width, height = size
    bits = _Bits(bytes(rle))
    count = bits.read(32)
    if count != width * height * 4:
        raise ValueError(f"brush mask is of {count} values, expected 4 * {width} * {height}")
    value_bits = bits.read(5) + 1
    length_bits = [bits.read(4) + 1 for _ in range(4)]
    mask = np.zeros(width * height, bool)
    place = 0
    while place < count:
        same = bits.read(1)
        end = place + 1 + bits.read(length_bits[bits.read(2)])
        if end > count:
            raise ValueError(f"brush mask has runs of more than the {count} values that it says")
        if same:  # the fourth value of each pixel is its alpha
            mask[place // 4:end // 4] = bits.read(value_bits) >= _INSIDE
        else:
            for value in range(place, end):
                alpha = bits.read(value_bits)
                if value % 4 == 3:
                    mask[value // 4] = alpha >= _INSIDE
        place = end
    return mask.reshape(height, width)


class _Bits:
    """Whole numbers from bytes, the highest bit first."""

    def __init__(self, data: bytes):
        self._data, self._place = data, 0

    def read(self, bits: int) -> int:
        """The next number of this many bits, at most 32."""
        end = self._place + bits
        if end > len(self._data) * 8:
            raise ValueError("brush mask ends too early")
        first, last = self._place // 8, -(-end // 8)
        number = int.from_bytes(self._data[first:last], "big") >> last * 8 - end & (1 << bits) - 1
        self._place = end
        return number
