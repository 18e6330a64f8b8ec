"""Questions about common things, which stand in no picture: they say what is listed, and nothing of the household."""

from __future__ import annotations

import re

import numpy as np

from ros_gpt4roi.sim.household.catalogue import kinds
from ros_gpt4roi.sim.household.common_things import common_rounds, things
from ros_gpt4roi.sim.household.scoring import score
from ros_gpt4roi.sim.household.wordings import AMBIGUOUS, FACTS

HELD_OUT = [key for key, kind in kinds().items() if kind.use_held_out or kind.held_out]


def test_no_common_thing_is_called_like_one_of_the_household():
    names = {name for kind in kinds().values() for name in (kind.name, *kind.synonyms)}
    assert len(things()) > 100 and len({thing.name for thing in things()}) == len(things())
    assert not names & {re.sub("^an? ", "", thing.name) for thing in things()}


def test_no_text_tells_what_is_held_out():
    names = {name for key in HELD_OUT for name in (kinds()[key].name, *kinds()[key].synonyms)} - AMBIGUOUS
    for thing in things():
        assert not any(re.search(rf"\b{name}\b", f"{thing.name} {thing.use} {thing.used_to}") for name in names)


def test_rounds_are_drawn_of_every_form_and_say_what_is_known():
    rounds = [turn for seed in range(300) for turn in common_rounds(np.random.default_rng(seed), 2)]
    assert len(rounds) == 600 and all(score(turn.expected, turn.answer) for turn in rounds)
    assert {turn.form for turn in rounds} == {"use", "need", *(f"is_{fact}" for fact in FACTS)}
    for turn in rounds:
        if turn.form == "use":
            asked = [thing for thing in things() if re.search(rf"\b{thing.name}\b", turn.question)]
            assert any(thing.use.lower() in turn.answer.lower() for thing in asked)
        elif turn.form == "need":
            chosen = next(thing for thing in things() if turn.answer == thing.told)
            assert chosen.name in turn.question and chosen.used_to in turn.question
        else:
            thing = max((t for t in things() if turn.answer.lower().startswith(t.name)), key=lambda t: len(t.name))
            assert turn.answer.endswith("yes." if turn.form.removeprefix("is_") in thing.facts else "no.")
    verdicts = [turn.answer.endswith("yes.") for turn in rounds if turn.form.startswith("is_")]
    assert 0.35 < sum(verdicts) / len(verdicts) < 0.65
