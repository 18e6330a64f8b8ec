"""What recognised sentences mean."""

from __future__ import annotations

import pytest

from ros_gpt4roi.speech.meaning import (
    Correction,
    Courtesy,
    NewConversation,
    Question,
    Unclear,
    doubt,
    meaning_of,
    repaired,
    without_wake_phrase,
)
from ros_gpt4roi.speech.recogniser import Transcript


@pytest.mark.parametrize("text", [
    "What is left of region 2?", "what is left of region two", "Why?", "And region 3?", "Describe region 2.",
    "Please tell me about the red mug.", "Okay, what is region 2?", "Is it red?", "Now, is it red", "How many?",
    "In region 2, do you see a capsule?", "Please find the red mug.", "Locate every cup.", "Search for the red mug."])
def test_questions(text: str) -> None:
    assert meaning_of(text) == Question(text)


@pytest.mark.parametrize(("heard", "asked"), [
    ("Was region 4 there before.", "Was region 4 there before?"), ("So, is it red,", "So, is it red?"),
    ("Describe the scene.", "Describe the scene."), ("Look. What is it.", "Look. What is it.")])
def test_a_question_is_marked_as_one(heard: str, asked: str) -> None:
    assert meaning_of(heard) == Question(asked)


def test_a_question_after_a_no_is_one() -> None:
    assert meaning_of("No, which region is red?") == Question("which region is red?")


@pytest.mark.parametrize(("heard", "asked"), [
    ("Which one is red? Region 1 or region 2?", "Which one is red, region 1 or region 2?"),
    ("In region 3. Do you see a capsule?", "In region 3, do you see a capsule?"),
    ("What is region 2? Why?", "What is region 2? Why?"), ("What is no. 2?", "What is no. 2?"),
    ("Look! There! What is it?", "Look! There! What is it?")])
def test_a_pause_makes_no_two_sentences_of_a_question(heard: str, asked: str) -> None:
    assert meaning_of(heard) == Question(asked)


@pytest.mark.parametrize(("text", "right", "subject", "instead"), [
    ("No, region two is a valve.", False, "region two", "a valve"),
    ("no region 2 is a valve", False, "region 2", "a valve"),
    ("No, it's a red mug.", False, "", "a red mug"),
    ("That's wrong, it is actually a bowl.", False, "", "a bowl"),
    ("Wrong. The second one is a bottle!", False, "The second one", "a bottle"),
    ("Region 2 is not a mug, it is a valve.", False, "Region 2", "a valve"),
    ("Region 2 isn’t a mug but a valve.", False, "Region 2", "a valve"),
    ("No, I think it is a bowl.", False, "", "a bowl"), ("no red mug", False, "", "red mug"),
    ("No.", False, "", ""), ("That is wrong.", False, "", ""), ("No, a mug.", False, "", "a mug"),
    ("Yes, that's right.", True, "", ""), ("Correct.", True, "", "")])
def test_corrections(text: str, right: bool, subject: str, instead: str) -> None:
    assert meaning_of(text) == Correction(right, subject, instead)


@pytest.mark.parametrize("text", ["The weather was lovely yesterday.", "I left my keys in the car.", "", "...", "Mug",
                                  "There goes the bus.", "Notice the dog.", "Whatever you say.", "No problem at all.",
                                  "Sorry, I'm late again.", "Actually, we like it.", "No one is here.", "Sorry.",
                                  "Sorry about that.", "No, my mug is not yours, it is mine."])
def test_what_is_neither(text: str) -> None:
    assert meaning_of(text) == Unclear()


@pytest.mark.parametrize(("transcript", "meaning", "cut", "why"), [
    (Transcript("Is it red?", 0.9), Question("Is it red?"), False, ""),
    (Transcript("Is it red?"), Question("Is it red?"), False, ""),  # of a recogniser that cannot say how sure it is
    (Transcript("Is it red?", 0.4), Question("Is it red?"), False, "I am not sure."),
    (Transcript("Is it red?", 0.9), Question("Is it red?"), True,
     "That was longer than 15 seconds, and I heard only the beginning."),
    (Transcript("", None, "de"), Unclear(), False, "I did not understand that."),
    (Transcript("What is region?", 0.9), Question("What is region?"), False, "I did not hear which region."),
    (Transcript("What is left of region", 0.9), Question("What is left of region"), False,
     "I did not hear which region."),
    (Transcript("What is in this region?", 0.9), Question("What is in this region?"), False, ""),
    (Transcript("Which is the largest region?", 0.9), Question("Which is the largest region?"), False, ""),
    (Transcript("A mug.", 0.9), Unclear(), False, "That is no question.")])
def test_what_is_not_enough_to_act_on(transcript: Transcript, meaning: object, cut: bool, why: str) -> None:
    assert doubt(transcript, meaning, cut, 0.5, 15.0) == why


def test_orders_and_courtesies() -> None:
    assert meaning_of("Thank you very much!") == meaning_of("Stop.") == meaning_of("Okay, thanks.") == Courtesy()
    assert meaning_of("New conversation.") == meaning_of("Let's start over.") == NewConversation()


def test_names_of_regions_that_sound_like_other_words() -> None:
    assert repaired("What is region too?") == "What is region 2?"
    assert repaired("compare region for and region  to") == "compare region 4 and region 2"
    assert repaired("Regent 2 and reason four") == "region 2 and region four"
    assert repaired("If region 2 small or large,") == "Is region 2 small or large,"
    assert repaired("What color is the region 2?") == "What color is region 2?"
    assert repaired("It's region 3 smaller large.") == "Is region 3 small or large."
    assert repaired("Region 3, red or blue.") == "Is Region 3 red or blue."
    assert repaired("What region is the mug?") == "Which region is the mug?"
    assert repaired("What region 4 there before?") == "What region 4 there before?"
    assert repaired("What 2 regions 2 and 1 have in common?") == "What do regions 2 and 1 have in common?"
    for text in ("It's region 3.", "It's region 3 that is red.", "What 2 regions are red?", "Is it smaller?",
                 "Region 1 or region 2?"):
        assert repaired(text) == text
    assert repaired("If it is red, say so") == "If it is red, say so"
    assert repaired("a region to the left") == "a region to the left"
    assert repaired("What is the reason for this?") == "What is the reason for this?"


def test_wake_phrases() -> None:
    phrases = ("hey robot", "okay robot")
    assert without_wake_phrase("Hey, robot! Which region is red?", phrases) == "Which region is red?"
    assert without_wake_phrase("OKAY ROBOT", phrases) == ""
    assert without_wake_phrase("Hey robots are nice", phrases) is None
    assert without_wake_phrase("Which region is red? Hey robot.", phrases) is None
    assert without_wake_phrase("Hello there", ()) is None
    assert without_wake_phrase("Hello there", ("", "?")) is None
