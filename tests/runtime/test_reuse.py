from __future__ import annotations

import pytest
import torch

from ros_gpt4roi.runtime.reuse import DescriptionReuse

SECOND = 1_000_000_000
LOOKS = torch.eye(4).unsqueeze(1)  # four regions [4, 1, 4], each as unlike the others as can be
NAMES = ["a", "b", "c", "d"]


def described(mentions: dict[str, list[str]], distance: float = 0.1, max_age_s: float = 5.0) -> DescriptionReuse:
    """All four regions described at stamp 0; mentions: the ids that a region's text names."""
    reuse = DescriptionReuse(distance, max_age_s)
    for name, look in zip(NAMES, LOOKS):
        reuse.put(name, f"about {name}", 0.5, (1, 2), look, 0, mentions.get(name, ()))
    return reuse


def kept(reuse: DescriptionReuse, moved: str = "", names: list[str] = NAMES, stamp_ns: int = SECOND) -> str:
    looks = torch.stack([-LOOKS[NAMES.index(name)] if name in moved else LOOKS[NAMES.index(name)] for name in names])
    found = reuse.keep(names, looks, stamp_ns)
    assert [text.text for text in found if text] == [f"about {n}" for n, text in zip(names, found) if text]
    return "".join(name for name, text in zip(names, found) if text)


def test_a_text_that_names_nobody_depends_on_its_own_region() -> None:
    assert kept(described({}), moved="b") == "acd"


def test_a_text_that_names_a_region_goes_when_that_one_changes() -> None:
    assert kept(described({"a": ["b"], "c": ["d"]}), moved="b") == "cd"


def test_it_goes_through_a_chain_of_mentions() -> None:
    assert kept(described({"a": ["b"], "b": ["c"], "d": ["d"]}), moved="c") == "d"


def test_two_that_name_each_other_stay_together() -> None:
    reuse = described({"a": ["b"], "b": ["a"]})
    assert kept(reuse) == "abcd"
    assert kept(reuse, moved="a") == "cd"


def test_a_named_region_that_is_out_of_sight_takes_the_text_along() -> None:
    assert kept(described({"a": ["b"]}), names=["a", "c"]) == "c"


def test_a_named_region_that_was_described_anew_since_takes_the_text_along() -> None:
    reuse = described({"a": ["b"]})
    reuse.put("b", "about b", 0.5, (3,), LOOKS[1], SECOND)
    assert kept(reuse) == "bcd"


def test_age_is_by_the_frames_stamps_and_never_backwards() -> None:
    reuse = described({}, max_age_s=2.0)
    assert kept(reuse, stamp_ns=2 * SECOND) == "abcd"
    assert kept(reuse, stamp_ns=2 * SECOND + 1) == kept(reuse, stamp_ns=-1) == ""
    assert (reuse.kept, reuse.looked_up) == (4, 12)


def test_distance_0_keeps_nothing() -> None:
    assert kept(described({}, distance=0.0)) == ""


@pytest.mark.parametrize(("distance", "age"), [(-0.1, 1.0), (2.1, 1.0), (float("nan"), 1.0), (0.1, -1.0)])
def test_limits_that_make_no_sense_are_refused_by_value(distance: float, age: float) -> None:
    with pytest.raises(ValueError, match=f"distance {distance} and age {age} s"):
        DescriptionReuse(distance, age)


def test_tracks_are_bounded() -> None:
    reuse = DescriptionReuse(0.1, 5.0)
    for i in range(1500):
        reuse.put(str(i), "text", 0.5, (1,), LOOKS[0], 0)
    assert reuse.last("0") is None and reuse.last("1499") is not None


def test_a_distance_of_0_keeps_nothing_however_the_numbers_round() -> None:
    looks = torch.rand(200, 1, 37, generator=torch.Generator().manual_seed(0))
    reuse, names = DescriptionReuse(0.0, 5.0), [str(number) for number in range(len(looks))]
    for name, look in zip(names, looks):
        reuse.put(name, "", 0.5, (1, 2), look, 0)
    assert reuse.keep(names, looks, SECOND) == [None] * len(looks)
