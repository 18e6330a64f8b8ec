from __future__ import annotations

import pytest

from benchmarks.language_quality import choose


def figures(seconds: float, lost: float = 0.0) -> dict[str, float]:
    return {"frame_s": seconds / 2, "question_s": seconds / 2, "points_lost": lost}


@pytest.mark.parametrize("formats, expected", [
    ({"fp32": figures(1.0), "bf16": figures(0.9), "int8": figures(0.5)}, "int8"),
    ({"fp32": figures(1.0), "int8": figures(0.5, lost=0.6)}, "fp32"),
    ({"fp32": figures(1.0), "int8": figures(1.04), "int4": figures(1.2)}, "int8"),
    ({"int8": figures(1.04), "int8-dynamic": figures(1.0)}, "int8-dynamic"),
    ({"fp32": figures(1.0), "int4, scaled": figures(0.2)}, "fp32")])
def test_the_default_is_the_fastest_good_format_and_the_smallest_of_equals(formats, expected):
    assert choose(formats) == expected
