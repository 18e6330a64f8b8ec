"""Arrays → a GPU, without waiting for the copy."""

from __future__ import annotations

import numpy as np
import torch


class PinnedUpload:
    """Copies arrays to a GPU from pinned memory, on the caller's stream, without waiting for the copy."""

    def __init__(self) -> None:
        self._staging: dict[int, tuple[torch.Tensor, torch.cuda.Event]] = {}

    def copy(self, place: int, array: np.ndarray, target: torch.Tensor) -> None:
        """Queues a copy.

        Args:
            place: which staging buffer to use; one for every input.
            array: C-contiguous.
            target: of its type and number of elements, on the GPU.
        """
        staged = self._staging.get(place)
        if staged is None or staged[0].numel() < array.nbytes:
            staged = torch.empty(array.nbytes, dtype=torch.uint8, pin_memory=True), torch.cuda.Event()
            self._staging[place] = staged
        buffer, copied = staged
        # The copy of the previous frame may still read the buffer.
        copied.synchronize()
        source = buffer[:array.nbytes].view(target.dtype).view(target.shape)
        source.copy_(torch.from_numpy(array))
        target.copy_(source, non_blocking=True)
        copied.record(torch.cuda.current_stream(target.device))
