from __future__ import annotations

import pytest

from ros_gpt4roi.runtime.pointing import Pointed, PointingError
from ros_gpt4roi.runtime.region_text import RegionText

REGIONS = RegionText(["1", "2", "3"])
NOTHING = Pointed(())
ONE, TWO = Pointed(("3",), shown=True), Pointed(("3", "2"), shown=True)


@pytest.mark.parametrize("text", [
    "What is this?", "And what is this", "Is this red?", "is this a mug?", "What is left of this?", "Describe this.",
    "Pick this", "pick this up", "What colour is this one?", "Tell me what this is", "What do you call this?",
    "What is the name of this?", "What is that?", "Is that red?", "What is it?", "Where is it?", "describe it",
    "Does this move?", "Can this hold water?", "Will that fall?", "Why is this red?", "What's this used for?",
    "What colour is it?", "Are this and this the same?", "Is this larger than that?", "What is at this point?",
])
def test_what_points_at_nothing_is_refused(text: str) -> None:
    with pytest.raises(PointingError, match="nothing is pointed at, expected a box or a point"):
        REGIONS.to_model(text, NOTHING)
    assert REGIONS.to_model(text) == text, "a text that nobody can point in"


@pytest.mark.parametrize("text", [
    "What is in this picture?", "Is this table clean?", "What time is it?", "Is it raining?", "Is it safe to move?",
    "What room is this?", "Is this right?", "What is this mug?", "Is this a photo of a kitchen?",
    "Is this indoors?", "is this outside", "Is this a bathroom?", "Is this a black and white photo?",
    "What city is this?", "What time of day is this?", "What kind of place is this?",
    "How many mugs are in this place?", "Why is this?", "Is that right?",
    "Why is that?", "Why is this so?", "Why is this mug red?", "Does this mug move?", "Can this robot hold water?",
    "Is there a mug that is red?", "Which of these is a box?", "Are all of these red?",
    "Is region 2 the one that is left?", "Is it true that the mug is red?", "Is there a mug, and is it red?",
])
def test_what_does_not_point_is_asked_as_it_is(text: str) -> None:
    assert REGIONS.to_model(text, NOTHING).replace("<region2>", "region 2") == text


@pytest.mark.parametrize(("pointed", "text", "expected"), [
    (ONE, "Tell me what this is", "Tell me what <region3> is"), (ONE, "What is that?", "What is <region3>?"),
    (ONE, "Is this red and is this small?", "Is <region3> red and is <region3> small?"),
    (ONE, "Is that left of region 2?", "Is <region3> left of <region2>?"),
    (TWO, "Are this and this the same?", "Are <region3> and <region2> the same?"),
    (TWO, "Is this one larger than that one?", "Is <region3> larger than <region2>?"),
    (TWO, "Are these two the same?", "Are <region3> and <region2> the same?"),
    (TWO, "Which of these is larger?", "Which of <region3> and <region2> is larger?"),
    (TWO, "Which is larger?", "Which is larger?"),
    (ONE, "Does this touch region 1?", "Does <region3> touch <region1>?"),
    (ONE, "Why is this red?", "Why is <region3> red?"), (ONE, "Put this on region 2", "Put <region3> on <region2>"),
    (TWO, "Does this touch that?", "Does <region3> touch <region2>?"),
])
def test_words_that_point_stand_for_what_is_pointed_at(pointed: Pointed, text: str, expected: str) -> None:
    assert REGIONS.to_model(text, pointed) == expected


@pytest.mark.parametrize(("pointed", "text"), [
    (TWO, "What is this?"), (TWO, "What is it?"), (ONE, "Are this and this the same?"), (ONE, "Is this left of that?"),
    (TWO, "Are this, this and this the same?"),
])
def test_which_of_several_is_not_guessed(pointed: Pointed, text: str) -> None:
    with pytest.raises(PointingError, match=f"pointed at is {', '.join(pointed.ids)}.*expected"):
        REGIONS.to_model(text, pointed)


def test_in_a_conversation_that_and_it_may_mean_a_word_of_it() -> None:
    spoken = Pointed((), follow_up=True)
    assert REGIONS.to_model("What is it?", spoken) == "What is it?"
    assert REGIONS.to_model("What about that?", spoken) == "What about that?"
    with pytest.raises(PointingError):
        REGIONS.to_model("What is this?", spoken)
