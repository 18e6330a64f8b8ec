"""Which of several recognised texts was said."""

from __future__ import annotations

import pytest

from ros_gpt4roi.speech.plausibility import Hypothesis, most_plausible, unexpected_words

SCENE = ["region 1", "region 2", "a large shiny cyan bottle", "a red mug"]


def heard(*texts: tuple[str, float]) -> list[Hypothesis]:
    return [Hypothesis(text, confidence=0.7, log_probability=likely) for text, likely in texts]


def test_words_of_the_scene_and_of_questions_are_expected() -> None:
    assert unexpected_words("What is left of the cyan bottle?", SCENE) == []
    assert unexpected_words("Are there mugs near region 2, and boxes?", SCENE) == []
    assert unexpected_words("Which region is furnished away?", SCENE) == ["furnished"]
    assert unexpected_words("Where is the cyan one?", []) == []
    assert unexpected_words("Where is the valve-like gadget?", []) == ["gadget"]


@pytest.mark.parametrize(("texts", "said"), [
    # The likelier one, where nothing else tells them apart.
    ([("Is region 1 red?", -1.0), ("Is region 2 red?", -2.0)], "Is region 1 red?"),
    # Words that make sense here, though others were a little likelier.
    ([("Is there anything thing zap?", -3.0), ("Is there anything pink?", -4.5)], "Is there anything pink?"),
    ([("The region 2 roll off the table.", -2.0), ("Could region 2 roll off the table?", -3.5)],
     "Could region 2 roll off the table?"),
    # Not at any price.
    ([("The neighbors have a dog.", -0.5), ("Which have a dog?", -15.0)], "The neighbors have a dog."),
    ([("Where is the mug? Where is the mug?", -1.0), ("Where is the mug?", -4.0)], "Where is the mug?")])
def test_the_plausible_text_is_taken(texts: list[tuple[str, float]], said: str) -> None:
    assert most_plausible(heard(*texts), SCENE).text == said


def test_a_guess_is_not_taken_for_what_was_heard_clearly() -> None:
    clear, guess = Hypothesis("Her mug is blue.", 0.95, -0.4), Hypothesis("Is it red?", 0.28, -6.4)
    assert most_plausible([guess, clear], SCENE) == clear
    assert most_plausible([Hypothesis("He plays the piano.", 0.84, -1.4), guess], SCENE).text == "He plays the piano."
    said = Hypothesis("You can sit over there.", 0.85, -1.3)
    assert most_plausible([said, Hypothesis("Can you sit over there?", 0.51, -5.0)], SCENE) == said


def test_a_mark_makes_no_question_of_a_statement() -> None:
    assert most_plausible(heard(("We really like this.", -1.0), ("We really like this?", -1.5)),
                          SCENE).text == "We really like this."


def test_a_word_that_sounds_like_one_of_the_scene_is_that_one() -> None:
    assert most_plausible(heard(("How many modules do you see?", -2.0)), SCENE).text == "How many bottles do you see?"
    assert most_plausible(heard(("Is the Model red?", -2.0)), SCENE).text == "Is the bottle red?"
    assert most_plausible(heard(("Is the model red?", -2.0)), ["a red mug"]).text == "Is the model red?"
    assert most_plausible(heard(("Is the mock red?", -2.0)), SCENE).text == "Is the mock red?"  # too short to tell
    replaced = most_plausible(heard(("Is the model red?", -2.0)), SCENE)
    assert replaced.confidence == 0.7 and replaced.log_probability < -2.0
