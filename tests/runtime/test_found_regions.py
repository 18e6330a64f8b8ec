"""What a model answers with a box becomes a region of the conversation, through a real Qwen3-VL with forced words."""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qwen_fixtures import write_qwen

from ros_gpt4roi.runtime.found_regions import FoundRegions
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.scheduler import Scheduler
from ros_gpt4roi.runtime.text_stream import TextStream
from ros_gpt4roi.runtime.types import Answer, Frame, Region, Status

SAID = ('```json\n[\n\t{"bbox_2d": [100, 200, ', '300, 600], "label": "red mug"}', ',\n\t{"bbox_2d": [500, ',
        '100, 900, 1200], "label": "cup"},\n', '\t{"bbox_2d": [900, 1, 2, 3], "label": "shelf"}\n]', "\n```")
HEIGHT, WIDTH = 60, 100
MUG, CUP = (10.0, 12.0, 30.0, 36.0), (50.0, 6.0, 90.0, 60.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("qwen") / "says", tied=False, says=SAID)


@pytest.fixture(scope="module")
def opened(folder: Path) -> Pipeline:
    return Pipeline.open(folder, PipelineConfig(device="cpu", language_format="fp32"))


@pytest.fixture
def pipeline(opened: Pipeline) -> Pipeline:
    opened.reset()
    opened.config = replace(opened.config, answer_tokens=64)
    return opened


def make_frame(*boxes: tuple[float, float, float, float]) -> Frame:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Frame(image, tuple(Region(str(i), box) for i, box in enumerate(boxes, 1)), 0, "camera")


def where(answer: Answer) -> dict[str, tuple[float, ...]]:
    """The regions that it names, in pixels to a thousandth."""
    return {region.id: tuple(round(corner, 3) for corner in region.box) for region in answer.regions}


def test_what_no_detector_has_found_becomes_a_region_that_can_be_asked_about(pipeline: Pipeline) -> None:
    conversation, heard = Conversation("c", make_frame()), []
    answer = pipeline.ask(conversation, Question("Find the red mug", on_text=heard.append))
    assert answer.status is Status.OK and answer.error == ""
    assert answer.text == "red mug (region 1), cup (region 2), shelf (no usable box)" == "".join(heard)
    assert heard[0] == "red mug (region 1)", "it is said as soon as it is complete"
    assert answer.region_ids == ("1", "2") and where(answer) == {"1": MUG, "2": CUP}
    assert [region.label for region in answer.regions] == ["red mug", "cup"]
    [refusal] = answer.refused
    assert "900, 1, 2, 3" in refusal
    assert json.loads(answer.as_json())["regions"] == ["1", "2"]
    assert pipeline.statistics()["regions_found"] >= 2

    follow_up = Question("What colour is region 2?")
    later = pipeline.ask(conversation, follow_up)
    assert follow_up.asked == "What colour is <region2>?" and later.status is Status.OK
    prompt = pipeline.language.prompts.tokenizer.decode(follow_up.sequences[0].prompt.ids)
    assert '{"bbox_2d": [500, 100, 900, 1000], "label": "region 2"}' in prompt
    assert SAID[0] in prompt, "the model is shown what it said itself"
    assert "Find the red mug. Report bbox coordinates in JSON format.<|im_end|>" in prompt
    # It says the same boxes again, which are regions by now.
    assert later.text == answer.text and where(later) == where(answer) and len(conversation.frame.regions) == 2


def test_a_box_that_is_nearly_a_known_regions_is_that_region(pipeline: Pipeline) -> None:
    nearly = (11.0, 12.0, 31.0, 37.0)
    frame = replace(make_frame(), regions=(Region("7", (0.0, 0.0, 9.0, 9.0)), Region("mug_3", nearly)))
    answer = pipeline.ask(Conversation("c", frame), Question("Find the red mug"))
    assert answer.text == "red mug (region mug_3), cup (region 3), shelf (no usable box)"
    assert answer.region_ids == ("mug_3", "3") and where(answer) == {"mug_3": nearly, "3": CUP}


@pytest.mark.parametrize(("tokens", "text", "boxes"), [
    (1, "", {}), (2, "red mug (region 1)", {"1": MUG}), (3, "red mug (region 1)", {"1": MUG}),
    (4, "red mug (region 1), cup (region 2)", {"1": MUG, "2": CUP})])
def test_a_cut_answer_keeps_the_boxes_that_are_complete_as_evidence(pipeline: Pipeline, tokens: int, text: str,
                                                                   boxes: dict) -> None:
    pipeline.config = replace(pipeline.config, answer_tokens=tokens)
    answer = pipeline.ask(Conversation("c", make_frame()), Question("Find the red mug"))
    assert answer.text == text and answer.error == f"the answer was cut after {tokens} tokens"
    assert answer.region_ids == () and answer.evidence_ids == tuple(boxes) and where(answer) == boxes


def test_descriptions_name_what_they_place_and_add_nothing(pipeline: Pipeline) -> None:
    described = pipeline.describe(make_frame(MUG))
    assert [item.text for item in described.descriptions] == ["red mug (region 1), cup, shelf (no usable box)"]
    assert len(described.frame.regions) == 1


def test_the_scheduler_gives_a_drawn_box_an_id_of_its_own(pipeline: Pipeline) -> None:
    scheduler = Scheduler(pipeline)

    def draw(frame: Frame) -> tuple[Region, ...]:
        return (Region(str(len(frame.regions) + 1), (60.0, 1.0, 70.0, 5.0)),)

    def ask(question: Question) -> Answer:
        scheduler.submit(question)
        return question.future.result(60)

    scheduler.start()
    try:
        answer = ask(Question("Find the red mug", frame=make_frame()))
        second = Question("What is this?", conversation_id=answer.conversation_id, draw=draw)
        later = ask(second)
        assert ask(Question("And region 2?", conversation_id=answer.conversation_id)).status is Status.OK
    finally:
        assert scheduler.stop()
    assert later.status is Status.OK and second.drawn == ("3",)
    assert [region.id for region in later.frame.regions] == ["1", "2", "3"]


def test_a_box_that_is_drawn_while_an_answer_is_written_and_what_the_answer_finds_have_ids_of_their_own(
        pipeline: Pipeline) -> None:
    conversation = Conversation("c", make_frame())

    def draw(piece: str) -> None:
        if piece.startswith("red mug"):
            conversation.add_regions(lambda frame: (Region(str(len(frame.regions) + 1), (60.0, 1.0, 70.0, 5.0)),))

    answer = pipeline.ask(conversation, Question("Find the red mug", on_text=draw))
    assert answer.text == "red mug (region 1), cup (region 3), shelf (no usable box)" and where(answer)["3"] == CUP
    assert [region.id for region in conversation.frame.regions] == ["1", "2", "3"]


# Other words, without a model that says them.

Said = Callable[..., tuple[str, tuple[str, ...], tuple[str, ...], FoundRegions]]


@pytest.fixture
def said(pipeline: Pipeline) -> Said:
    def read(text: str, frame: Frame | None = None, question: str = "find it", most: int = 32,
             complete: bool = True) -> tuple[str, tuple[str, ...], tuple[str, ...], FoundRegions]:
        """A text as it is read while it is written, bit by bit: words, asserted regions, evidence."""
        frame = frame or make_frame()
        reader = FoundRegions(pipeline.encoder.encode(frame), Conversation("c", frame), most)
        stream = TextStream(lambda ids: text[:len(ids)], (), reader.to_user, reader.unfinished)
        grown = "".join(stream.push(range(end)) for end in range(0, len(text), len(text) // 400 + 1))
        grown += stream.push(range(len(text)), final=True)
        assert grown == stream.text == reader.to_user(text).strip()
        return (grown, *reader.asserted(question, text, "", complete), reader)
    return read


BOX = '{"bbox_2d": [100, 200, 300, 600], "label": "red mug"}'
OTHER = '{"bbox_2d": [500, 100, 900, 900], "label": "cup"}'


@pytest.mark.parametrize(("text", "words", "asserted", "evidence"), [
    ("There is no red mug.", "There is no red mug.", (), ()),
    ("[]", "nothing found", (), ()),
    ("```json\n[]\n```", "nothing found", (), ()),
    (BOX, "red mug (region 2)", ("2",), ()),
    (f"Here they are!\n```json\n[{BOX}, {OTHER}]\n```", "Here they are!\nred mug (region 2), cup (region 3)",
     ("2", "3"), ()),
    (f"It is at {BOX}, left of region 1.", "It is at red mug (region 2), left of region 1.", ("2",), ("1",)),
    ("It is at (100,200),(300,600).", "It is at region 2.", ("2",), ()),
    ("The mug(100,200),(300,600)", "The mug region 2", (), ("2",)),
    (f"There is no red mug, but there are [{BOX}, {OTHER}]",
     "There is no red mug, but there are red mug (region 2), cup (region 3)", (), ("2", "3")),
    (f"It might be one of these: [{BOX}, {OTHER}]",
     "It might be one of these: red mug (region 2), cup (region 3)", (), ("2", "3")),
    (f"[{BOX}, {BOX}, {BOX}]", "red mug (region 2)", ("2",), ()),
    (f"[{BOX.replace('red mug', 'region 9')}]", "region 2", ("2",), ()),
    ('[{"bbox_2d": [0, 0, 90, 150], "label": "region 1"}]', "region 1", ("1",), ()),
    ('[{"point_2d": [700, 700], "label": "player", "shirt_color": "red"}]',
     "player (region 2, shirt color: red)", ("2",), ()),
    ('{"bbox_2d": [300, 1, 1, 1]}', "something (no usable box)", (), ()),
    ('{"bbox_2d": [0, 0, 0.5, 500], "label": "hair"}', "hair", (), ()),
])
def test_words_and_what_they_assert(said: Said, text: str, words: str, asserted: tuple[str, ...],
                                   evidence: tuple[str, ...]) -> None:
    assert said(text, make_frame((0.0, 0.0, 9.0, 9.0)))[:3] == (words, asserted, evidence)


def test_of_a_hundred_boxes_as_many_become_regions_as_a_conversation_may_have(said: Said) -> None:
    boxes = [{"bbox_2d": [10 * place, 1, 10 * place + 9, 9], "label": "screw"} for place in range(100)]
    words, asserted, _, reader = said(json.dumps(boxes), most=32)
    assert words.startswith("screw (region 1), screw (region 2), ")
    assert words.endswith("screw (region 32), 68 more without a region")
    assert asserted == tuple(str(number) for number in range(1, 33)) and len(reader.added) == 32
    assert reader.refused == ["68 of the boxes in an answer: its conversation may have 32 beside those that it began "
                              "with"]
    full = make_frame().with_regions(tuple(reader.added))
    assert said(f"[{OTHER}]", full, most=32)[:3] == ("1 more without a region", (), ())


def test_a_point_is_told_from_a_box_and_known_again(said: Said) -> None:
    frame = make_frame((10.0, 12.0, 10.0, 12.0), (5.0, 5.0, 15.0, 20.0))
    words, asserted, _, reader = said('[{"point_2d": [101, 200]}, {"point_2d": [300, 200]}]', frame)
    assert words == "region 1, region 3" and asserted == ("1", "3") and reader.added[0].is_point
