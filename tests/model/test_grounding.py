"""Boxes and points in what a model writes: every form, cut anywhere, and forms that are none."""
from __future__ import annotations

import json

import pytest
from qwen_fixtures import qwen_tokenizer

from ros_gpt4roi.model.config import PromptConfig
from ros_gpt4roi.model.grounding import FoundThings, Part, read_grounding, read_to_end
from ros_gpt4roi.model.region_words import REPORT_BOXES, REPORT_POINTS, RegionWordPrompts

MUG = '{"bbox_2d": [120, 80, 410, 620], "label": "red mug"}'
CUP = '{"label": "cup", "bbox_2d": [500, 500, 600, 640]}'
MUG_CORNERS, CUP_CORNERS = (0.12, 0.08, 0.41, 0.62), (0.5, 0.5, 0.6, 0.64)


def shown(parts: list[Part]) -> list[object]:
    """Words as they are, things as (label, corners)."""
    return [part if isinstance(part, str) else [(thing.label, thing.corners) for thing in part.things]
            for part in parts]


BOTH = [("red mug", MUG_CORNERS), ("cup", CUP_CORNERS)]


@pytest.mark.parametrize(("text", "expected"), [
    (MUG, [[("red mug", MUG_CORNERS)]]),
    (f"[{MUG}]", [[("red mug", MUG_CORNERS)]]),
    (f"```json\n[\n\t{MUG},\n\t{CUP}\n]\n```", [BOTH]),
    (f"```json\n{MUG}\n```", [[("red mug", MUG_CORNERS)]]),
    (f"```\n[{MUG}, {CUP}]\n```", [BOTH]),
    (f"{MUG}\n{CUP}", [BOTH]),
    (f"Here they are:\n```json\n[{MUG},{CUP}]\n```\nBoth stand.", ["Here they are:\n", BOTH, "\nBoth stand."]),
    (f"It is at {MUG}, left of region 2.", ["It is at ", [("red mug", MUG_CORNERS)], ", left of region 2."]),
    (f"{MUG} and {CUP}", [BOTH[:1], " and ", BOTH[1:]]),
    ("It is at (120,80),(410,620).", ["It is at ", [("", MUG_CORNERS)], "."]),
    ("(120, 80), (410, 620)", [[("", MUG_CORNERS)]]),
    ('[{"point_2d": [250, 500], "label": "handle"}]', [[("handle", (0.25, 0.5, 0.25, 0.5))]]),
    ('{"bbox_2d": [1.5, 2, 30, 40.5], "label": "a {b} \\"c\\" ]"}', [[('a {b} "c" ]', (0.0015, 0.002, 0.03, 0.0405))]]),
    ("[]", [[]]),
    ("```json\n[]\n```", [[]]),
])
def test_every_form_is_read(text: str, expected: list[object]) -> None:
    assert shown(read_to_end(text, 9)) == expected


@pytest.mark.parametrize("text", [
    "", "a red mug", "region 2 (left) [sic] is 5 (or 6)", '{"colour": "red"}', "[1, 2, 3, 4]", "(12, 30)", "((((",
    "{{{{ no", "[[[[ no", '{"label": "no box"}', "```python\nprint(1)\n```", "{'bbox_2d': [1, 2, 3, 4]}", "`x`, y",
    "(1,2),(3,4", '{"colour": "red", "si', '{"bbox_2d": [1, 2, 3, 4], "more": {"deep": 1}}',
])
def test_what_is_no_place_stays_as_it_is(text: str) -> None:
    assert "".join(part for part in read_to_end(text, 9) if isinstance(part, str)) == text


@pytest.mark.parametrize(("given", "corners"), [
    ("[-50, 20, 400, 2000]", (0.0, 0.02, 0.4, 1.0)),  # what is in the picture
    ("[0, 0, 1000, 1000]", (0.0, 0.0, 1.0, 1.0)),
    ("[410, 80, 120, 620]", None), ("[120, 620, 410, 80]", None), ("[120, 80, 120, 620]", None),
    ("[1200, 80, 1410, 620]", None), ("[1, 2, 3]", None), ("[1, 2, 3, 4, 5]", None), ('["1", "2", "3", "4"]', None),
    ("[NaN, 1, 2, 3]", None), ("[true, 1, 2, 3]", None), ("[[1, 2, 3, 4]]", None), ("null", None), ("7", None),
    ("[-Infinity, 0, 1e999, 500]", (0.0, 0.0, 1.0, 0.5)), (f"[1, 1, {'9' * 500}, 500]", (0.001, 0.001, 1.0, 0.5)),
])
def test_a_box_is_clipped_to_the_grid_and_one_that_is_none_says_so(given: str, corners: object) -> None:
    [part] = read_to_end(f'[{{"bbox_2d": {given}, "label": "it"}}, {CUP}]', 9)
    assert isinstance(part, FoundThings)
    assert [thing.corners for thing in part.things] == [corners, CUP_CORNERS]
    assert part.things[0].label == "it" and part.things[0].written.startswith('{"bbox_2d": ')


def test_a_point_outside_the_picture_is_none() -> None:
    [part] = read_to_end('{"point_2d": [250, 1001]}', 9)
    assert shown([part]) == [[("", None)]]


def test_what_else_is_said_of_a_thing_is_kept_and_labels_are_short() -> None:
    label = json.dumps("long\n" * 60)
    text = f'{{"point_2d": [1, 2], "label": {label}, "shirt_color": "black", "number": 7, "deep": [1]}}'
    [part] = read_to_end(text, 9)
    assert isinstance(part, FoundThings)
    [thing] = part.things
    assert thing.details == (("shirt color", "black"), ("number", "7"))
    assert len(thing.label) <= 101 and "\n" not in thing.label


def test_a_hundred_boxes_are_read_up_to_the_limit_and_counted() -> None:
    boxes = [{"bbox_2d": [place, 1, place + 5, 9], "label": "screw"} for place in range(100)]
    [part] = read_to_end(json.dumps(boxes), most=32)
    assert isinstance(part, FoundThings) and len(part.things) == 32 and part.more == 68 and part.listed
    [cut] = read_to_end(json.dumps(boxes)[:-30], most=32)
    assert isinstance(cut, FoundThings) and len(cut.things) == 32 and cut.more == 67
    parts = read_to_end("(1,2),(30,40) (1,2),(30,40)", most=1)
    assert [part.more for part in parts if isinstance(part, FoundThings)] == [0, 1]


TEXTS = [f"Here:\n```json\n[\n\t{MUG},\n\t{CUP}\n]\n```\nDone, {MUG}, (120,80),(410,620) and (5) [x] {{}}.",
         f"[{MUG}, {CUP}]", f"{MUG}\n{CUP}", '```json\n{"a": "b"}\n``` [] `c`', f"{MUG}, {CUP}, and more"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("most", [0, 1, 9])
def test_what_is_read_of_a_beginning_stays_whatever_follows(text: str, most: int) -> None:
    def flat(parts: list[Part]) -> str:
        return "".join(part if isinstance(part, str) else "".join(f"<{thing.written}>" for thing in part.things)
                       for part in parts)

    whole = flat(read_grounding(text, most)[0])
    for end in range(len(text) + 1):
        parts, rest = read_grounding(text[:end], most)
        assert whole.startswith(flat(parts)) and text[:end].endswith(rest)


def test_a_text_that_was_cut_keeps_its_complete_boxes_and_shows_no_half_object() -> None:
    text = f"I see ```json\n[{MUG}, {CUP}]"
    complete = {text.index("620]") + len("620]"): 1, text.index("640]") + len("640]"): 2}
    for end in range(len("I see "), len(text)):
        parts = read_to_end(text[:end], 9)
        things = [thing for part in parts if isinstance(part, FoundThings) for thing in part.things]
        assert len(things) == sum(end >= place for place in complete) or (end < text.index("```json") + 4)
        words = "".join(part for part in parts if isinstance(part, str))
        assert words.strip(" `") in ("I see", ""), text[:end]


@pytest.mark.parametrize("text", [
    '{"bbox_2d": ' + "[" * 900, '{"bbox_2d": ' + "[" * 450 + "]" * 450 + "}", "[" * 3000, '{"' * 3000,
    '[{"bbox_2d": [' * 500, '{"bbox_2d": [1,2,3,4], "label": "' + "x" * 9000,
    "(1," * 3000, "```json [" * 1000, '"' * 3000 + "{" + '"' * 999,
])
def test_malformed_text_of_any_length_is_read_to_its_end(text: str) -> None:
    for part in read_to_end(text, 9):
        assert isinstance(part, str | FoundThings)


@pytest.mark.parametrize(("question", "asked"), [
    ("Find the red mug", f"Find the red mug. {REPORT_BOXES}"),
    ("please locate every cup!", f"please locate every cup! {REPORT_BOXES}"),
    ("Can you point to the handle?", f"Can you point to the handle? {REPORT_POINTS}"),
    ("What is left of <region1>?", None), ("Did you find it?", None), ("findings?", None),
    ('Find cups as {"bbox_2d": [x1, y1, x2, y2], "size": "s"}', None),
])
def test_who_asks_to_find_something_asks_for_its_place(question: str, asked: str | None) -> None:
    prompts = RegionWordPrompts(qwen_tokenizer(), PromptConfig(template="chatml"))
    text, _, _ = prompts._render([(question.replace("<region1>", "it"), None)], 0, False, frozenset())
    assert f"{asked or question.replace('<region1>', 'it')}<|im_end|>" in text
