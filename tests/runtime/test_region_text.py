from __future__ import annotations

import pytest

from ros_gpt4roi.runtime.pointing import Pointed, points
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
    ("region 2是什么？", "<region2>是什么？"),
    ("请描述region 2和3的颜色", "请描述<region2>和<region3>的颜色"),
    ("region 2は何ですか", "<region2>は何ですか"),
    ("region 1とregion 12の間に何がありますか", "<region1>と<region12>の間に何がありますか"),
    ("region 2는 무엇입니까?", "<region2>는 무엇입니까?"),
    ("region 2과 3의 차이", "<region2>과 <region3>의 차이"),
    ("что такое region 2й?", "что такое <region2>й?"),
    ("what is region ２？", "what is <region2>？"),
    ("What is region two?", "What is <region2>?"),
    ("regions one and twelve", "<region1> and <region12>"),
    ("what is region (2)?", "what is <region2>?"),
    ("Region#2", "<region2>"),
    ("region: 2, region no. 3, region number 4", "<region2>, <region3>, <region4>"),
    ("is region “2” left of region [3]?", "is <region2> left of <region3>?"),
    ("Region\n2 & 3", "<region2> & <region3>"),
    ("İs region 2 straße ﬁne?", "İs <region2> straße ﬁne?"),
    ("Which region has 2 mugs, and which region is twofold?", "Which region has 2 mugs, and which region is twofold?"),
    ("Is there a region no one can reach, or a region number?",
     "Is there a region no one can reach, or a region number?"),
    ("subregion 2 and x_region 3", "subregion 2 and x_region 3"),
])
def test_numbers_become_places(text: str, expected: str) -> None:
    assert NUMBERS.to_model(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("What is region mug_3?", "What is <region1>?"),
    ("What is region track-7, and region A+B?", "What is <region2>, and <region5>?"),
    ("Is region cup 12 behind region cup 1?", "Is <region4> behind <region3>?"),
    ("regions mug_3 and track-7", "<region1> and <region2>"),
    ("region TRACK-7", "<region2>"),
    ('region "cup 1", please', "<region3>, please"),
    ("region cup   12", "<region4>"),
])
def test_a_detectors_own_names_become_places(text: str, expected: str) -> None:
    assert TRACKS.to_model(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("What is number 2?", "What is <region2>?"),
    ("number two, please", "<region2>, please"),
    ("What is #2?", "What is <region2>?"),
    ("no. 2 and #3", "<region2> and <region3>"),
    ("regions 2, #3 and number 4", "<region2>, <region3> and <region4>"),
    ("Is the second one red?", "Is <region2> red?"),
    ("the 2nd region", "<region2>"),
    ("2?", "<region2>?"),
    ("2 and 3", "<region2> and <region3>"),
    ("compare 2, 3 and 4", "compare <region2>, <region3> and <region4>"),
    ("is 2 left of 3?", "is <region2> left of <region3>?"),
    ("is 2 red?", "is <region2> red?"),
    ("which is larger, 2 or 3?", "which is larger, <region2> or <region3>?"),
    ("which of 2 and 3 is larger?", "which of <region2> and <region3> is larger?"),
    ("Are 2 and 3 the same colour?", "Are <region2> and <region3> the same colour?"),
    ("What is left of 2?", "What is left of <region2>?"),
    ("describe 2 in detail", "describe <region2> in detail"),
    ("pick 2", "pick <region2>"),
    ("Pick 2 up, please", "Pick <region2> up, please"),
    ("What is #2.", "What is <region2>."),
    ("is box 2 left of object 3?", "is <region2> left of <region3>?"),
    ("box 1 box 2", "<region1> <region2>"),
    ("compare boxes 2 and 3", "compare <region2> and <region3>"),
    ("Compare regions 1-3.", "Compare <region1>, <region2> and <region3>."),
    ("regions 2 to 3", "<region2> and <region3>"),
    ("Describe regions two through four", "Describe <region2>, <region3> and <region4>"),
    ("describe 1 through 3", "describe <region1>, <region2> and <region3>"),
    ("What are 1–3?", "What are <region1>, <region2> and <region3>?"),
    ("regions 5 and 1-2", "<region5> and <region1> and <region2>"),
    ("How far is it from region 1 to 3?", "How far is it from <region1> to <region3>?"),
])
def test_a_region_is_named_without_that_word(text: str, expected: str) -> None:
    assert NUMBERS.to_model(text) == expected


@pytest.mark.parametrize("text", [
    "are there 2 balls?", "How many are red, 2 or 3?", "Are there more than 2?", "a group of 2", "2 balls?",
    "Is it 2 or 3?", "room number 2", "the number 2 is written where?", "what is 2 + 2", "Is 2.5 large?",
    "Which has 2 mugs?", "step 2", "wait 2 minutes", "rate it from 1 to 10", "Are 2 red?",
    "on a scale of 1 to 10, how tidy is it?",
    "is there a number 99 on it", "Is 20 percent of it full?", "at 2:30", "50 %", "the second one from the left",
    "What is the second one you mentioned?", "the first mug", "the 14th mug", "2 m", "What is this?", "a second one",
])
def test_a_number_that_counts_or_measures_is_no_region(text: str) -> None:
    assert NUMBERS.to_model(text) == text


@pytest.mark.parametrize(("text", "name"), [
    ("What is the 13th one?", "13"), ("Is the 14th region red?", "14"), ("the 99th box, please", "99"),
    ("What is left of the 20th object?", "20"),
])
def test_an_ordinal_beyond_the_regions_is_unknown(text: str, name: str) -> None:
    with pytest.raises(UnknownRegionError, match=f"no region '{name}'"):
        NUMBERS.to_model(text)


@pytest.mark.parametrize("text", ["What is the seventh one?", "What is number nine?", "Is the ninth region red?"])
def test_an_ordinal_in_words_beyond_the_regions_is_unknown(text: str) -> None:
    for regions in (RegionText([str(i) for i in range(1, 7)]), TRACKS):
        with pytest.raises(UnknownRegionError, match="no region"):
            regions.to_model(text)
    assert TRACKS.to_model("What is the second one?") == "What is the second one?"  # whatever "second" means there


@pytest.mark.parametrize(("text", "expected"), [
    ("what is mug_3?", "what is <region1>?"),
    ("Is TRACK-7 left of cup 12?", "Is <region2> left of <region4>?"),
    ("cup 1 and track-7", "<region3> and <region2>"),
    ("is there a cup 1234", "is there a cup 1234"),
    ("track-77 and my_mug_3", "track-77 and my_mug_3"),
    ("A+B", "A+B"),
])
def test_a_trackers_id_is_a_name_by_itself(text: str, expected: str) -> None:
    assert TRACKS.to_model(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("What is this?", "What is <region5>?"), ("what colour is this", "what colour is <region5>"),
    ("Is this red?", "Is <region5> red?"), ("Is this region left of region 2?", "Is <region5> left of <region2>?"),
    ("What is left of this?", "What is left of <region5>?"), ("And this?", "And <region5>?"),
    ("What is it?", "What is <region5>?"), ("Is it left of region 2?", "Is it left of <region2>?"),
    ("Is this mug clean?", "Is this mug clean?"), ("What is in this picture?", "What is in this picture?"),
    ("Why is this?", "Why is this?"), ("Why do you say this?", "Why do you say this?"),
    ("Which of this and 2 is it?", "Which of <region5> and <region2> is it?"), ("What is THIS?", "What is <region5>?"),
    ("Is this one left of region 2?", "Is <region5> left of <region2>?"), ("thistle?", "thistle?"),
])
def test_this_is_a_region_where_it_stands_for_one(text: str, expected: str) -> None:
    assert NUMBERS.to_model(text, Pointed(("5",), shown=True)) == expected
    assert NUMBERS.to_model(text).count("<region5>") == 0
    assert points(text) == ("this" in text.lower() and "<region5>" in expected)


def test_this_may_be_a_region_that_was_left_out() -> None:
    with pytest.raises(UnknownRegionError, match="'far-9' was left out"):
        TRACKS.to_model("What is this?", Pointed(("far-9",)))
    assert TRACKS.to_model("What is cup 1?", Pointed(("far-9",), shown=True)) == "What is <region3>?"


@pytest.mark.parametrize(("ids", "text", "expected"), [
    (["bin-1"], "what is region BIN-1?", "what is <region1>?"),
    (["杯子", "盘子"], "region 盘子是什么？", "<region2>是什么？"),
    (["Straße"], "region STRASSE", "<region1>"),
    (["İstanbul"], "region İSTANBUL", "<region1>"),
    (["Tasse\u0301"], "region tass\u00e9", "<region1>"),
    (["tass\u00e9"], "region Tasse\u0301!", "<region1>!"),
    (["\uac00\ubc29"], "region \u1100\u1161\u1107\u1161\u11bc이 뭐야", "<region1>이 뭐야"),
    (["２"], "region 2", "<region1>"),
    (["Cup", "cup"], "region cup and region Cup and region CUP", "<region2> and <region1> and <region1>"),
    (["two", "2"], "region two, region 2", "<region1>, <region2>"),
    (["чашка", "чаш"], "region Чашка и region чаш", "<region1> и <region2>"),
    (["", "a"], "region a", "<region2>"),
    (["(x)", "[1]"], "region (x) and region [1]", "<region1> and <region2>"),
    (["a.*", "a\\d"], "region a.* or region a\\d", "<region1> or <region2>"),
])
def test_names_are_matched_by_one_rule(ids: list[str], text: str, expected: str) -> None:
    assert RegionText(ids).to_model(text) == expected


def test_no_letter_of_a_question_or_a_name_is_more_than_an_unknown_region() -> None:
    letters = [chr(code) for code in (*range(0x20, 0x3000, 97), 0x131, 0x130, 0xdf, 0x1e9e, 0xfb03, 0x149, 0x17f,
                                      0x212a, 0x390, 0x1f88, 0x200d, 0xfeff, 0x1f600, 0x10400, 0xd55c, 0xffff)]
    for letter in letters:
        for ids in (["bin-1"], [f"b{letter}n-1"], [letter]):
            for text in (f"region b{letter}n-1", f"region {letter}", f"regions 1 and {letter}2",
                         f"{letter}region bin-1"):
                try:
                    RegionText(ids).to_model(text)
                except UnknownRegionError:
                    pass


@pytest.mark.parametrize(("regions", "text", "named"), [
    (RegionText(["bin-1"]), "what is region bın-1?", "'bın-1'"),
    (TRACKS, "region FAR-9?", "left out"),
    (TRACKS, "region two", "'two'"),
    (TRACKS, "what is region (7)?", "'7'"),
    (NUMBERS, "region 13是什么？", "'13'"),
    (NUMBERS, "region 13は何ですか", "'13'"),
    (NUMBERS, "regions 1、99", "'99'"),
    (RegionText(["чашка"]), "region чашка7", "'чашка7'"),
    (NUMBERS, "What is region 13?", "'13'"),
    (NUMBERS, "What is region 0?", "'0'"),
    (NUMBERS, "Compare regions 1 and 99.", "'99'"),
    (NUMBERS, "region 2a", "'2a'"),
    (NUMBERS, 'the region "left mug"', "'left mug'"),
    (TRACKS, "region 2", "'2'"),
    (TRACKS, "region track-77", "'track-77'"),
    (RegionText([]), "What is region 1?", "it has none"),
    (TRACKS, "What is region far-9?", "left out"),
    (NUMBERS, "what is number 13?", "'13'"),
    (NUMBERS, "#99", "'99'"),
    (NUMBERS, "What is #13.", "'13'"),
    (NUMBERS, "what is region 2.5?", "'2.5'"),
    (NUMBERS, "number 2.5", "'2.5'"),
    (NUMBERS, "Is 14 red?", "'14'"),
    (NUMBERS, "is 2 left of 13?", "'13'"),
    (TRACKS, "Is 2 red?", "'2'"),
    (NUMBERS, "pick 14", "'14'"),
    (NUMBERS, "is box 13 red?", "'13'"),
    (NUMBERS, "1 through 13", "'13'"),
    (NUMBERS, "regions 3-1", "'3-1'"),
    (NUMBERS, "regions 0 to 2", "'0'"),
    (TRACKS, "regions 1-3", "'1'"),
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
    assert TRACKS.to_user("是region2。") == "是region track-7。" and TRACKS.mentioned("是region2。") == ("track-7",)


@pytest.mark.parametrize(("text", "expected", "mentioned"), [
    ("Region 2 is red.", "Region track-7 is red.", ["track-7"]),
    ("Regions 1, 2 and 9 are red.", "Regions mug_3, track-7 and 9 are red.", ["mug_3", "track-7"]),
    ("region 1 and 2 mugs", "region mug_3 and 2 mugs", ["mug_3"]),
    ("all regions", "all regions", []),
])
def test_places_are_found_as_models_write_them(text: str, expected: str, mentioned: list[str]) -> None:
    assert TRACKS.to_user(text) == expected and list(TRACKS.mentioned(text)) == mentioned


def test_what_a_text_has_so_far_is_rendered_as_it_will_be() -> None:
    text = "Regions 1, 2, or 3 and region 4 and 5, and regions 2 and another. Region1, regions"
    for end in range(len(text) + 1):
        sure = text[:end][:end - RegionText.unfinished(text[:end])]
        assert TRACKS.to_user(text).startswith(TRACKS.to_user(sure))


@pytest.mark.parametrize(("text", "held"), [("a region", 6), ("a region1", 7), ("a region 1", 8), ("a region1 ", 0),
                                            ("a regional", 0), ("", 0),
                                            ("a regions 1, 2 an", 15), ("a regions 1 and 2, so", 0)])
def test_a_mention_that_may_go_on_is_held(text: str, held: int) -> None:
    assert RegionText.unfinished(text) == held
