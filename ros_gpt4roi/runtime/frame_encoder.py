"""Frames → what the language stage reads of them; once a frame."""
from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from ..model.config import ModelConfig
from ..model.preprocess import check_frame, preprocess_frame
from ..model.qwen3_vl import AnyVisionOutput, PictureOutput, Qwen3VLConfig, fit_frame, joined
from ..model.region_replay import RegionReplay
from ..model.region_shapes import RegionInputs, RegionShape, region_inputs
from .region_text import RegionText
from .regions import region_shapes, usable_regions
from .request import EncodedFrame, Refused
from .types import Frame, Region, Status
from .vision_stage import VisionStage

_FRAMES_KEPT = 8  # vision outputs of recent frames; a conversation over an older one encodes its frame again


def network_inputs(pixels: np.ndarray, regions: Sequence[RegionShape],
                   config: ModelConfig | Qwen3VLConfig) -> tuple[np.ndarray, RegionInputs]:
    """The network's picture of a frame, and its regions.

    Args:
        pixels: uint8 RGB [H, W, 3].
        regions: In pixels.
        config: The model's.

    Raises:
        ValueError: The frame or a box is no good.
    """
    height, width = pixels.shape[:2]
    if isinstance(config, Qwen3VLConfig):
        shapes = config.regions if isinstance(config.regions, RegionReplay) else None
        return fit_frame(pixels, config.preprocess), region_inputs(regions, width, height, shapes)
    return preprocess_frame(pixels, config.preprocess), region_inputs(regions, width, height, config.regions)


class FrameEncoder:
    """Runs the vision stage on frames and keeps what it gives for the last ones. Not thread-safe.

    Args:
        vision: The vision stage.
        config: The model's own configuration.
        on_forgotten: Called with the key of a frame whose vision output is kept no longer.

    Attributes:
        vision: The vision stage.
        counters: What has happened since construction or warm-up, for diagnostics.
    """

    def __init__(self, vision: VisionStage, config: ModelConfig | Qwen3VLConfig, on_forgotten: Callable[[int], None]):
        self.vision, self._config, self._on_forgotten = vision, config, on_forgotten
        self._encoded: OrderedDict[int, EncodedFrame] = OrderedDict()  # by the frame's key
        self._decoded: tuple[int, np.ndarray | None] = -1, None  # key and pixels of the frame that was encoded last
        self.counters = {"frames_encoded": 0, "regions_omitted": 0}

    def encode(self, frame: Frame) -> EncodedFrame:
        """Run the vision stage on a frame, once.

        Of a frame that has more regions than its base, only these are new: image tokens, and the places and embeddings
        of the base's regions, are the base's. A prompt's beginning stays the same up to the new ones in its list.

        Args:
            frame: Image and regions.

        Raises:
            Refused: The image is no good.
        """
        known = self._encoded.get(frame.key)
        if known is not None:
            self._encoded.move_to_end(frame.key)
            return known
        base = self.encode(frame.base) if frame.base is not None else None
        given = frame.regions if base is None else frame.regions[len(base.frame.regions):]
        began = time.perf_counter()
        try:
            pixels = check_frame(frame.image)
            height, width = pixels.shape[:2]
            chosen, omitted, refused = self._select(given, width, height)
            found, empty = region_shapes(chosen, width, height, self._config.points)
            image, regions = network_inputs(pixels, [shape for _, shape in found], self._config)
            shown, refused = tuple(region for region, _ in found), refused + empty
        except ValueError as error:
            raise Refused(Status.INVALID, str(error)) from error
        self._decoded = frame.key, pixels
        prepared = time.perf_counter()
        vision = self._see(image, regions, base)
        seconds = {"preprocess": prepared - began, "vision": time.perf_counter() - prepared}
        vision_key, points, keys, boxes = frame.key, regions.points, np.arange(len(shown)), regions.boxes
        if base is not None:
            first = len(base.shown)
            vision, vision_key = joined(base.vision, vision), base.vision_key
            boxes = np.concatenate([base.boxes, boxes])
            keys = np.concatenate([base.region_keys, ((frame.key + 1) << 32) + keys])
            points = base.points | {first + place for place in points}
            shown, omitted, refused = base.shown + shown, base.omitted + omitted, base.refused + refused
        text = RegionText([region.id for region in shown], [region.id for region in omitted])
        encoded = EncodedFrame(frame, shown, omitted, refused, points, vision, boxes, vision_key, keys, text,
                               seconds)
        self.counters["frames_encoded"] += 1
        self.counters["regions_omitted"] += len(omitted)
        self._encoded[frame.key] = encoded
        if len(self._encoded) > _FRAMES_KEPT:
            self._on_forgotten(self._encoded.popitem(last=False)[0])
        return encoded

    def _see(self, image: np.ndarray, regions: RegionInputs, base: EncodedFrame | None) -> AnyVisionOutput:
        """What the vision stage makes of a picture; of a frame with a base, only its regions are needed."""
        boxes, masks = regions.boxes[None], None if regions.masks is None else regions.masks[None]
        if base is not None and isinstance(base.vision, PictureOutput):
            return self.vision.see_more(base.vision, boxes, masks)
        return self.vision.encode(image[None], boxes, masks)

    def pixels(self, frame: Frame) -> np.ndarray | None:
        """The image [H, W, 3] of the frame that was encoded last, as it was decoded for that; None of any other."""
        return self._decoded[1] if self._decoded[0] == frame.key else None

    def statistics(self) -> dict[str, int]:
        """The counters, those of the vision stage too."""
        return self.counters | self.vision.counters

    def clear(self) -> None:
        """Forget all frames."""
        self._encoded.clear()
        self._decoded = -1, None

    def _select(self, regions: tuple[Region, ...], width: int, height: int,
                ) -> tuple[tuple[Region, ...], tuple[Region, ...], tuple[str, ...]]:
        """The regions the model is shown, those beyond its limit (the lowest scores), and why others are refused."""
        usable, refused = usable_regions(regions, width, height, normalised=False)
        ranks = sorted(range(len(usable)), key=lambda place: -usable[place].score)
        best = set(ranks[:self._config.prompt.max_regions])
        return (tuple(region for place, region in enumerate(usable) if place in best),
                tuple(region for place, region in enumerate(usable) if place not in best), refused)
