"""What an answer asserts: on every form of the embedded model's answers, and on those of models that speak freely."""
from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sim" / "tabletop"))
from test_conversations import make_scene  # noqa: E402

from ros_gpt4roi.runtime.assertions import assertions  # noqa: E402
from ros_gpt4roi.sim.tabletop.conversations import conversation, recall_rounds, short_rounds  # noqa: E402
from ros_gpt4roi.sim.text_rounds import TextRound  # noqa: E402

_REGION = re.compile(r"<region(\d+)>")


def places(text: str) -> list[int]:
    return list(dict.fromkeys(map(int, _REGION.findall(text))))


def expected(turn: TextRound) -> list[int]:
    """What a round's answer asserts, from what the scene says is true: the text's own words are not looked at."""
    named, subject = places(turn.answer), [] if turn.subject is None else [turn.subject + 1]
    what, values = turn.expected.what, turn.expected.values
    if turn.task == "why":
        return []
    if what == "region":
        return [int(value.removeprefix("region")) for value in values]
    if what == "number":
        return named
    if turn.form == "common":
        return places(turn.question) if "both" in values else []
    if turn.form == "same":
        return named if values == ("yes",) else []
    if turn.form in ("exists", "exists_there"):
        return list(turn.regions[-1:]) if values == ("yes",) else []
    its = subject if re.search(r"\bits?\b", turn.question) else []
    by_name = bool(subject) and {*places(turn.question), *its} == set(subject)  # and no other region's
    if what == "yes_no" and turn.form != "between":
        return subject if by_name or values == ("yes",) else []
    if what == "relation":
        return subject
    return subject if by_name else []  # an attribute, a description, or "it is on the line …"


def test_what_the_embedded_models_answers_assert() -> None:
    forms = set()
    for seed in range(250):
        scene, rng = make_scene(seed), np.random.default_rng(seed)
        rounds = conversation(scene, rng)
        before: list[TextRound | None] = [None, *rounds]
        for turn, earlier in [*zip(rounds, before), *((turn, None) for turn in recall_rounds(scene, rng, 6)),
                              *((turn, None) for turn in short_rounds(scene))]:
            subject = earlier.subject if earlier is not None else None
            answer = _REGION.sub(r"region\1", turn.answer)
            found, evidence = assertions(turn.question, answer, None if subject is None else subject + 1)
            assert list(found) == expected(turn), (turn, found)
            assert sorted((*found, *evidence)) == sorted({*places(turn.answer), *found})
            forms.add((turn.task, turn.form))
    assert len(forms) > 35


@pytest.mark.parametrize(("question", "answer", "asserted", "evidence"), [
    ("What is <region1>?", "A white ball.", [1], []),
    ("What is <region1>?", "It is a white ball. region2 is next to it.", [1], [2]),
    ("What is <region1>?", "Region1 is a white ball to the left of region2.", [1], [2]),
    ("What is the colour of <region1>?", "The ball is white.", [1], []),
    ("What is left of <region1>?", "A white ball.", [], []),
    ("What is left of <region1>?", "The white ball is left of region1.", [], [1]),
    ("What is on the left side of <region1>?", "It's region2, because region3 is on the other side.", [2], [3]),
    ("What is next to <region1>?", "Region 2 and region 3.", [2, 3], []),
    ("What is between <region1> and <region2>?", "Between region 1 and region 2 is region 3.", [3], [1, 2]),
    ("Which is largest?", "region1 is small; region2 is large; so region2.", [2], [1]),
    ("Which is largest?", "Region 1 is small and region 2 is large. Therefore, the answer is region 2.", [2], [1]),
    ("Which is largest?", "The largest one is region 2.", [2], []),
    ("Which is largest?", "Region 2, since region 1 is small.", [2], [1]),
    ("Which is largest?", "Either region 1 or region 2.", [], [1, 2]),
    ("Which is largest?", "Region 1 is not the largest.", [], [1]),
    ("Which is largest?", "Region 1 isn't, region 2 is.", [2], [1]),
    ("Which is largest?", "Not region 1 but the other.", [], [1]),
    ("Which is largest?", "I can't tell whether it is region 1.", [], [1]),
    ("Which is largest?", "Larger than region 1 is region 2.", [2], [1]),
    ("Which are red?", "Regions 1, 2 and 4 are red.", [1, 2, 4], []),
    ("Which are red?", "Region 1 and 2 mugs.", [1], []),
    ("Where is the mug?", "The mug is in region 2.", [2], []),
    ("Where is the mug?", "The mug is next to region 2.", [], [2]),
    ("Is there a mug?", "Yes, region 2 is a mug.", [2], []),
    ("Is there a mug?", "Yes. Region 2 is a mug.", [2], []),
    ("Is there a mug?", "No. Region 2 is a bowl.", [], [2]),
    ("Is there a mug?", "No, only region 2, a bowl.", [], [2]),
    ("Is <region2> a mug?", "No, it is a bowl.", [2], []),
    ("Is <region1> a mug?", "No, region 2 is.", [], [2]),
    ("Is <region1> left of <region2>?", "Yes.", [], []),
    ("Is <region1> or <region2> red?", "The mug.", [], []),
    ("What is <region1> and what is <region2>?", "Region 1 is a mug. Region 2 is a bowl. Region 3 is near.",
     [1, 2], [3]),
    ("Count the mugs.", "region1 and region2, so 3.", [], [1, 2]),
    ("Count the mugs.", "region1 is next to region2, so 2.", [], [1, 2]),
    ("What do <region1> and <region2> share?", "Both are red.", [1, 2], []),
    ("Was ist links von <region1>?", "Ein roter Becher.", [], []),
    ("<region1>左边是什么？", "红色杯子。", [], []),
    ("Describe <region2>.", "I cannot see it.", [], []),
    ("What is <region2>?", " ", [], []),
    ("Red mug?", "region3.", [3], []),
    ("Why?", "Because region 3 is red, so it is the one.", [], [3]),
    ("Say something.", "subregion 4 and region12 and region 0", [], [12, 0]),
])
def test_what_other_models_answers_assert(question: str, answer: str, asserted: list[int],
                                          evidence: list[int]) -> None:
    found = assertions(question, answer)
    assert (list(found[0]), list(found[1])) == (asserted, evidence)


@pytest.mark.parametrize(("question", "answer"), [
    ("Which one is broken?", "Region 1 looks fine, but region 2 is broken."),
    ("Which one is broken?", "Region 1 looks fine, while region 2 is broken."),
    ("Which one is broken?", "Region 1 is intact, region 2 is broken."),
    ("Which one of <region1> and <region2> is broken?", "Region 1 is intact and region 2 is broken."),
    ("Is there a red mug?", "Region 1 and region 2 are not red mugs."),
    ("Is there a red mug?", "Region 1 and region 2 aren't."),
    ("Is there a red mug?", "Region 1, region 2 aren't."),
    ("Is there a red mug?", "Region 1 and region 2 are mugs, but not red."),
    ("Is there a red mug?", "Yes, region 1 is a mug, but it is not red."),
    ("Which is a red mug?", "regions 1 and 2 are both not mugs."),
    *(("Which is a red mug?", f"Region 1 {denied}.") for denied in (
        "is certainly not", "is almost certainly not", "is never", "is hardly", "is no red mug")),
    *(("Which is a red mug?", answer) for answer in (
        "Region 1, or maybe region 2.", "Region 1 or possibly region 2.", "Region 1 or 2.", "Region 1/2.",
        "Region 1, or region 2.", "It might be region 1.", "Region 1 could be.", "Perhaps it is region 1.",
        "It is unlikely to be region 1.", "If it is red, it is region 1.")),
    ("What is <region1>?", "There is no region 1."),
    ("What is <region1>?", "There isn't a region 1."),
    ("What is <region1>?", "Region 1 does not exist."),
])
def test_what_is_denied_or_left_open_is_not_asserted(question: str, answer: str) -> None:
    assert assertions(question, answer)[0] == ()


@pytest.mark.parametrize(("question", "answer", "asserted"), [
    ("Which is broken?", "Region 1 is not as clean, but region 2 is, so region 2.", [2]),
    ("Which is broken?", "Region 2 is broken, region 1 isn't.", [2]),
    ("What are <region1> and <region2>?", "Region 1 is a mug and region 2 is a bowl.", [1, 2]),
    ("Is <region1> red?", "Region 1 is not red.", [1]),
    ("Is there a mug in <region1>?", "There is no mug in region 1.", [1]),
])
def test_what_is_clear_beside_a_denial_is_asserted(question: str, answer: str, asserted: list[int]) -> None:
    assert list(assertions(question, answer)[0]) == asserted


@pytest.mark.parametrize(("question", "meant", "asserted"), [
    ("What colour is it?", 3, [3]), ("And its size?", 3, [3]), ("What is this?", 3, [3]), ("What is it?", None, []),
    ("What is left of it?", 3, []), ("Is it left of <region1>?", 3, []),
    ("What is <region1>, and around it?", 3, [1]), ("Is it red?", 3, [3]),
])
def test_it_and_this_are_what_was_meant(question: str, meant: int | None, asserted: list[int]) -> None:
    assert list(assertions(question, "Red.", meant)[0]) == asserted


@pytest.mark.parametrize(("question", "text", "asserted", "evidence"), [
    ("Which is larger?", "Region 1 is large", [], [1]),
    ("What is <region1>?", "A white", [1], []),
    ("Which of <region1> and <region2> is larger?", "region1 is large and", [], [1]),
])
def test_an_unfinished_answer_asserts_nothing_that_it_names(question: str, text: str, asserted: list[int],
                                                            evidence: list[int]) -> None:
    found = assertions(question, text, complete=False)
    assert (list(found[0]), list(found[1])) == (asserted, evidence)
