"""Terse look-ups about household scenes: each answer is that of the scene."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from household_texts import FROM_ANOTHER, holds, make_scene, regions

from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.household.recall import recall_rounds
from ros_gpt4roi.sim.household.sampler import is_clear
from ros_gpt4roi.sim.household.scene import HouseholdScene
from ros_gpt4roi.sim.household.scoring import said_colours, said_kinds, score
from ros_gpt4roi.sim.text_rounds import TextRound

SCENES, ROUNDS = 300, 30


@pytest.fixture(scope="module", name="asked")
def asked_fixture() -> list[tuple[HouseholdScene, TextRound]]:
    found = []
    for seed in range(SCENES):
        rng = np.random.default_rng(seed)
        scene = permuted(make_scene(seed), rng)
        found += [(scene, turn) for turn in recall_rounds(scene, rng, ROUNDS)]
    return found


def test_answers_count_as_right_and_all_forms_are_drawn(asked):
    assert all(score(turn.expected, re.sub("[<>]", "", turn.answer)) for _, turn in asked)
    tasks = Counter(turn.task for _, turn in asked)
    assert all(tasks[task] > 20 for task in ("which_region", "kind", "relations", "counting", "state")), tasks
    asked_for = Counter(turn.question.partition("<")[0].strip() for _, turn in asked)
    assert all(asked_for[words] > 1 for words in ("Where,", "State,", "In", "left of", "next to", "on")), asked_for


def test_only_the_answer_to_what_a_region_is_says_so(asked):
    assert not any(said_kinds(turn.answer) for _, turn in asked if turn.task != "kind")


def test_what_a_region_is_is_asked_once(asked):
    seen: list[tuple[HouseholdScene, int]] = []
    for scene, turn in asked:
        if (turn.task == "kind" or turn.task == "which_region" and "region" not in turn.question
                and turn.subject is not None):
            assert not any(scene is other and turn.subject == one for other, one in seen)
            seen.append((scene, turn.subject))
    assert len(seen) > 300


def test_no_more_is_asked_than_wanted():
    scene = make_scene(0)
    assert len(recall_rounds(scene, np.random.default_rng(0), 3)) == 3


def test_a_name_leads_to_what_is_called_so_and_to_nothing_else(asked):
    checked = missing = 0
    for scene, turn in asked:
        if turn.task == "which_region" and "region" not in turn.question:
            (kind,) = said_kinds(turn.question)
            if turn.answer == "None.":
                assert kind not in {o.kind for o in scene.objects}
                missing += 1
                continue
            (item,) = regions(scene, turn.answer)
            colours = set(said_colours(turn.question))
            alike = [o for o in scene.objects if o.kind == kind and colours <= set(o.colours)]
            assert alike == [item] and is_clear(scene, item)
            checked += 1
    assert checked > 200 and missing > 20


def test_a_region_leads_to_its_name_or_cant_be_told(asked):
    for scene, turn in asked:
        if turn.task == "kind":
            (item,) = regions(scene, turn.question)
            if not is_clear(scene, item):
                assert turn.answer == "I can't tell."
                continue
            assert said_kinds(turn.answer) == [item.kind] and set(said_colours(turn.answer)) == set(item.colours)


def test_the_closest_is_the_closest(asked):
    checked = 0
    for scene, turn in asked:
        if turn.question.startswith("Closest"):
            (one,), (found,) = regions(scene, turn.question), regions(scene, turn.answer)
            others = [o for o in scene.objects if o is not one and not o.facts.furniture]
            nearest = min(others, key=lambda o: np.hypot(*np.subtract(o.position[:2], one.position[:2])))
            assert found is nearest
            checked += 1
    assert checked > 15


def test_of_two_regions_the_answer_names_first_what_the_other_is_compared_with(asked):
    for scene, turn in asked:
        if turn.task == "relations" and not turn.question.startswith("Where"):
            item, other = regions(scene, turn.question)
            assert regions(scene, turn.answer) == [other, item]
            for said in turn.answer.removesuffix(".").partition(" is ")[2].split(" and "):
                assert holds(FROM_ANOTHER[said], item, other)


def test_all_that_is_not_seen_is_asked_about_once():
    scene = make_scene(0)
    hidden = replace(scene, objects=tuple(replace(item, visible=0.01) for item in scene.objects))
    turns = recall_rounds(hidden, np.random.default_rng(0), ROUNDS)
    assert sorted(turn.question for turn in turns) == sorted(f"<region{k + 1}>?" for k in range(len(scene.objects)))
    assert {turn.answer for turn in turns} == {"I can't tell."}
    assert recall_rounds(replace(scene, objects=()), np.random.default_rng(0), ROUNDS) == []
