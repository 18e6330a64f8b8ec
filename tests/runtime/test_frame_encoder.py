"""Frames as the model sees them: which regions, in which places, and how often they are encoded."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ros_gpt4roi.model.checkpoint import LoadedModel
from ros_gpt4roi.model.region_shapes import box_region
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.types import Frame, Region, Status
from training.evaluation.model import answers


def test_a_conversation_outlives_the_vision_output(make_pipeline: Callable, make_frame: Callable) -> None:
    pipeline, other = make_pipeline(), make_pipeline()
    frame = make_frame(3)
    first, second = Conversation("c", frame), Conversation("c", frame)
    for p, conversation in ((pipeline, first), (other, second)):
        p.ask(conversation, Question("What is region 2?", "q"))
    for seed in range(12):
        pipeline.encoder.encode(make_frame(2, seed=seed))
    follow_up = Question("And region 1?", "q")
    assert pipeline.ask(first, follow_up).text == other.ask(second, follow_up).text
    assert pipeline.statistics()["frames_encoded"] == 14


def test_a_copy_of_a_frame_is_encoded_anew_and_the_frame_itself_once(make_pipeline: Callable,
                                                                     make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(2)
    assert pipeline.encoder.encode(frame) is pipeline.encoder.encode(frame)
    assert pipeline.encoder.encode(dataclasses.replace(frame)) is not pipeline.encoder.encode(frame)
    assert pipeline.statistics()["frames_encoded"] == 2


def test_regions_beyond_the_limit_lose_by_score(make_pipeline: Callable, make_frame: Callable) -> None:
    frame = make_frame(18)
    regions = tuple(dataclasses.replace(region, score=0.1 if region.id in ("4", "9") else 0.9)
                    for region in frame.regions)
    pipeline = make_pipeline()
    crowded = dataclasses.replace(frame, regions=regions)
    result = pipeline.describe(crowded)
    assert [region.id for region in result.omitted] == ["4", "9"]
    assert [d.region.id for d in result.descriptions] == [r.id for r in regions if r.id not in ("4", "9")]
    assert pipeline.statistics()["regions_omitted"] == 2
    answer = pipeline.ask(Conversation("c", crowded), Question("What is region 9?", "q"))
    assert answer.status is Status.UNKNOWN_REGION and "'9'" in answer.error and "left out" in answer.error


def test_benchmarks_ask_about_regions_beyond_the_limit(make_pipeline: Callable, make_frame: Callable) -> None:
    frame, pipeline = make_frame(18), make_pipeline()
    regions = [box_region(*region.box) for region in frame.regions]
    for _ in range(2):
        (text,) = answers(pipeline, frame.image, regions, [[("What is <region18>?", None)]], max_new_tokens=3)
        assert text
        # What the node encodes of the same frame keeps to the limit, before and after.
        assert len(pipeline.encoder.encode(frame).shown) == 16


def test_no_regions_describe_to_nothing_and_can_be_asked_about(make_pipeline: Callable, make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(0)
    assert pipeline.describe(frame).status is Status.OK
    assert pipeline.describe(frame).descriptions == ()
    assert pipeline.ask(Conversation("c", frame), Question("What is there?", "q")).status is Status.OK


@pytest.mark.parametrize("box", [(float("nan"), 1, 2, 3), (5, 5, 4, 9), (5, 5, 5, 9), (0, 0, float("inf"), 3)])
def test_a_bad_box_costs_only_itself(box: tuple, make_pipeline: Callable, make_frame: Callable) -> None:
    pipeline, good = make_pipeline(), make_frame(2)
    bad = dataclasses.replace(good, regions=(good.regions[0], Region("9", box), good.regions[1]))
    described, expected = pipeline.describe(bad), pipeline.describe(good)
    assert described.status is Status.OK
    assert [(d.region, d.text) for d in described.descriptions] == [(d.region, d.text) for d in expected.descriptions]
    [refusal] = described.refused
    assert "region 9" in refusal and f"{box[2]:g}" in refusal
    asked = pipeline.ask(Conversation("c", bad), Question("What is region 9?", "q"))
    assert asked.status is Status.UNKNOWN_REGION and refusal in asked.error
    assert pipeline.ask(Conversation("d", bad), Question("What is region 2?", "q")).status is Status.OK
    alone = pipeline.describe(dataclasses.replace(good, regions=(Region("9", box),)))
    assert alone.status is Status.INVALID and alone.error == refusal


def test_a_point_is_a_small_box_with_a_token_of_its_own(loaded: LoadedModel, make_pipeline: Callable,
                                                        make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(1)
    half = loaded.config.points.size * 48 / 2
    point, box = (dataclasses.replace(frame, regions=(*frame.regions, Region("2", corners))) for corners in
                  ((20.0, 30.0, 20.0, 30.0), (20 - half, 30 - half, 20 + half, 30 + half)))
    torch.testing.assert_close(pipeline.encoder.encode(point).vision, pipeline.encoder.encode(box).vision)
    for shown, tokens in ((point, ["<bbox>", "<point>"]), (box, ["<bbox>", "<bbox>"])):
        question = Question("What is region 2?", "q", conversation=Conversation("c", shown))
        pipeline.begin(question)
        ids = [int(i) for i in question.sequences[0].prompt.ids if i in loaded.prompts.region_ids]
        assert loaded.tokenizer.convert_ids_to_tokens(ids) == tokens
    outside = dataclasses.replace(frame, regions=(Region("1", (49.0, 5.0, 49.0, 5.0)),))
    refused = pipeline.describe(outside)
    assert refused.status is Status.INVALID and "point (49 5) is outside" in refused.error


def added(name: str, x: float, size: float = 9.0) -> tuple[Region, ...]:
    return (Region(name, (x, x, x + size, x + size)),)


def test_regions_that_join_later_keep_all_places_and_answers(loaded: LoadedModel, make_pipeline: Callable,
                                                             make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(["a", "b"])
    conversation = Conversation("c", frame)
    pipeline.ask(conversation, Question("What is region b?"))
    conversation.frame = frame.with_regions(added("new", 3)).with_regions(added("point", 30, 0.0))
    encoded = pipeline.encoder.encode(conversation.frame)
    assert encoded.text.ids == ("a", "b", "new", "point") and encoded.points == {4}
    whole = pipeline.encoder.encode(dataclasses.replace(conversation.frame, base=None))
    torch.testing.assert_close(encoded.vision, whole.vision)
    answer = pipeline.ask(conversation, Question("Is region new left of region point?"))
    alone = Conversation("alone", whole.frame, list(conversation.rounds[:1]))
    assert answer.text == make_pipeline().ask(alone, Question("Is region new left of region point?")).text
    assert conversation.rounds[1][0] == "Is <region3> left of <region4>?"


def test_of_a_prompt_with_new_regions_only_what_follows_them_is_computed(make_pipeline: Callable,
                                                                         make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(3)
    conversation = Conversation("c", frame)
    pipeline.ask(conversation, Question("What is region 1?"))
    conversation.frame = frame.with_regions(added("4", 3))
    question = Question("What is region 4?", conversation=conversation)
    before = dict(pipeline.language.generator.counters)
    pipeline.begin(question)
    while not pipeline.step():
        pass
    ids = pipeline.language.prompts.tokenizer.convert_ids_to_tokens(question.sequences[0].prompt.ids.tolist())
    third = [place for place, token in enumerate(ids) if token == "<bbox>"][2]
    reused = pipeline.language.generator.counters["reused_tokens"] - before["reused_tokens"]
    assert third < reused < len(ids)


def test_two_conversations_about_one_frame_do_not_share_what_they_added(make_pipeline: Callable,
                                                                        make_frame: Callable) -> None:
    frame, texts = make_frame(2), []
    shared, answers_of = make_pipeline(), []
    for name, x in (("one", 2.0), ("two", 25.0)):
        for pipeline in (shared, make_pipeline()):
            conversation = Conversation(name, frame)
            pipeline.ask(conversation, Question("What is region 1?"))
            conversation.frame = frame.with_regions(added("3", x))
            texts.append(pipeline.ask(conversation, Question("Describe region 3.")).text)
            answers_of.append(pipeline.encoder.encode(conversation.frame).vision.region_embeddings[0, 2])
    assert texts[0] == texts[1] and texts[2] == texts[3]
    assert not torch.equal(answers_of[0], answers_of[2])


def test_more_regions_than_are_listed_are_introduced_by_the_question(make_pipeline: Callable,
                                                                     make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(16)
    conversation = Conversation("c", frame.with_regions(added("17", 4)))
    question = Question("What is region 17?", conversation=conversation)
    pipeline.begin(question)
    tokens = pipeline.language.prompts.tokenizer.convert_ids_to_tokens(question.sequences[0].prompt.ids.tolist())
    assert tokens.count("<bbox>") == 17
    while not pipeline.step():
        pass
    assert question.result.status is Status.OK and question.result.region_ids == ("17",)


def test_a_frame_that_is_no_image_is_refused(make_pipeline: Callable) -> None:
    result = make_pipeline().describe(Frame(np.zeros((4, 4), np.uint8), (), 0, ""))
    assert result.status is Status.INVALID and "(4, 4)" in result.error


def test_a_picture_is_decoded_once(make_pipeline: Callable, make_frame: Callable) -> None:
    plain, decoded = make_frame(2), []

    class Picture:
        shape = plain.image.shape

        def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
            decoded.append(self)
            return plain.image

    pipeline, frame = make_pipeline(), dataclasses.replace(plain, image=Picture())
    first, other, again = (pipeline.describe(each) for each in (frame, make_frame(2), frame))
    assert len(decoded) == 1 and first.pixels is plain.image
    assert other.pixels is not None and again.pixels is None, "the pixels of one frame are kept"
