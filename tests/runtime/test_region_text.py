from __future__ import annotations

import pytest

from ros_gpt4roi.runtime.region_text import RegionText, UnknownRegionError

NUMBERS = RegionText([str(i) for i in range(1, 13)])
TRACKS = RegionText(["mug_3", "track-7", "cup 1", "cup 12", "A+B"], left_out=["far-9"])


@pytest.mark.parametrize(("text", "expected"), [
    ("What is region 2?", "What is <region2>?"),
    ("What is region 12?", "What is <region12>?"),
    ("what is Region #2", "what is <region2>"),
    ("what is region2", "what is <region2>"),
    ("Compare regions 1 and 3.", "Compare <region1> and <region3>."),
    ("Compare regions 1, 2, and 3 please", "Compare <region1>, <region2>, and <region3> please"),
    ("Is region 1 left of region 2 or 3?", "Is <region1> left of <region2> or <region3>?"),
    ('What is region "4"?', "What is <region4>?"),
    ("Which region is left of the mug?", "Which region is left of the mug?"),
    ("How many regions are red, 2 or 3?", "How many regions are red, 2 or 3?"),
    ("Describe every region.", "Describe every region."),
])
def test_numbers_become_places(text: str, expected: str) -> None:
    assert NUMBERS.to_model(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("What is region mug_3?", "What is <region1>?"),
    ("What is region track-7, and region A+B?", "What is <region2>, and <region5>?"),
    ("Is region cup 12 behind region cup 1?", "Is <region4> behind <region3>?"),
    ("regions mug_3 and track-7", "<region1> and <region2>"),
    ("region TRACK-7", "<region2>"),
])
def test_a_detectors_own_names_become_places(text: str, expected: str) -> None:
    assert TRACKS.to_model(text) == expected


@pytest.mark.parametrize(("regions", "text", "named"), [
    (NUMBERS, "What is region 13?", "'13'"),
    (NUMBERS, "What is region 0?", "'0'"),
    (NUMBERS, "Compare regions 1 and 99.", "'99'"),
    (NUMBERS, "region 2a", "'2a'"),
    (NUMBERS, 'the region "left mug"', "'left mug'"),
    (TRACKS, "region 2", "'2'"),
    (TRACKS, "region track-77", "'track-77'"),
    (RegionText([]), "What is region 1?", "it has none"),
    (TRACKS, "What is region far-9?", "left out"),
])
def test_an_unknown_name_is_refused_by_name(regions: RegionText, text: str, named: str) -> None:
    with pytest.raises(UnknownRegionError) as error:
        regions.to_model(text)
    assert named in str(error.value)


def test_places_become_names_again() -> None:
    text = "region2 is left of region 3, not of region12 or region5; region1."
    expected = "region track-7 is left of region cup 1, not of region12 or region A+B; region mug_3."
    assert TRACKS.to_user(text) == expected
    assert TRACKS.mentioned(text + " region2") == ("track-7", "cup 1", "A+B", "mug_3")
    assert TRACKS.mentioned("no place, subregion4") == ()


@pytest.mark.parametrize(("text", "held"), [("a region", 6), ("a region1", 7), ("a region 1", 8), ("a region1 ", 0),
                                            ("a regional", 0), ("", 0)])
def test_a_mention_that_may_go_on_is_held(text: str, held: int) -> None:
    assert RegionText.unfinished(text) == held
