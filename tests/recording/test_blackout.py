"""Blacked out pictures, pixel by pixel."""
from __future__ import annotations

import numpy as np
import pytest

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.recording.blackout import BlackoutOptions, black_out


def test_areas_and_boxes_are_black_and_nothing_else_is() -> None:
    options = BlackoutOptions(areas=(0, 0, 0.5, 0.1, 0.9, 0.9, 1, 1), margin=0.5)
    pixels = np.full((20, 40, 3), 200, np.uint8)
    result = black_out(pixels, options, [(10, 5, 14, 9), (39, 18, 60, 40)])
    expected = pixels.copy()
    expected[:2, :20] = expected[18:, 36:] = expected[3:11, 8:16] = expected[7:, 28:] = 0
    np.testing.assert_array_equal(result, expected)
    assert (pixels == 200).all(), "the picture that the others see"


def test_labels_are_compared_as_people_write_them() -> None:
    options = BlackoutOptions(labels=("Person", "face"))
    assert options.any and options.covers(["mug", "person"]) and options.covers([" FACE "])
    assert not options.covers(["personal"]) and not options.covers([])
    assert not BlackoutOptions().any


@pytest.mark.parametrize("areas", [(0.1, 0.2, 0.3), (0.5, 0, 0.5, 1), (0, 0, 1, 1.5)])
def test_areas_that_are_none_are_refused(areas: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="areas"):
        BlackoutOptions(areas=areas)
