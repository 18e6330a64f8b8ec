from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch

from ros_gpt4roi.model.checkpoint import LoadedModel
from ros_gpt4roi.model.gpt4roi import VisionOutput
from ros_gpt4roi.model.prompt import IMAGE_END, IMAGE_PATCH, IMAGE_START
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.region_text import RegionText
from ros_gpt4roi.runtime.request import Conversation, DescriptionRequest, Question
from ros_gpt4roi.runtime.types import Answer, Frame, Status


def published_procedure(loaded: LoadedModel, pipeline: Pipeline, frame: Frame, rounds: list, tokens: int) -> list[int]:
    """One conversation by itself: everything encoded, one full forward for every token, no cache. The reference."""
    encoded = Pipeline(loaded, pipeline.config).encoder.encode(frame)
    prompt = loaded.prompts.encode(rounds, len(encoded.shown), list_regions=True)
    ids, index = list(prompt.input_ids), list(prompt.region_index)
    stops = pipeline.language.generator.stop_ids
    generated: list[int] = []
    with torch.inference_mode():
        while len(generated) < tokens:
            embeddings = loaded.model.embed(torch.tensor([ids]), VisionOutput(*encoded.vision), torch.tensor([index]))
            logits = loaded.model.language(inputs_embeds=embeddings, use_cache=False).logits[0, -1]
            logits[loaded.tokenizer.convert_tokens_to_ids([IMAGE_PATCH, IMAGE_START, IMAGE_END])] = -torch.inf
            token = int(logits.argmax())
            if token in stops:
                break
            generated.append(token)
            ids.append(token)
            index.append(-1)
    return generated


def reference_text(loaded: LoadedModel, pipeline: Pipeline, frame: Frame, rounds: list, tokens: int) -> str:
    ids = published_procedure(loaded, pipeline, frame, rounds, tokens)
    text = pipeline.language.text(ids).strip()
    return RegionText([region.id for region in frame.regions]).to_user(text)


@pytest.mark.parametrize("regions", (1, 2, 3, 4, 6, 9, 13, 16))
def test_descriptions_are_those_of_separate_full_runs(regions: int, loaded: LoadedModel, make_pipeline: Callable,
                                                      make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(regions, seed=regions)
    request = DescriptionRequest(frame=frame)
    pipeline.begin(request)
    while not pipeline.step():
        assert request.result is None
    result = request.result
    assert result.status is Status.OK
    assert [d.region for d in result.descriptions] == list(frame.regions)
    for place, (description, sequence) in enumerate(zip(result.descriptions, request.sequences, strict=True), start=1):
        rounds = [(f"Describe <region{place}>.", None)]
        assert sequence.generated == published_procedure(loaded, pipeline, frame, rounds, 12)
        assert description.text == RegionText(str(i) for i in range(1, 17)).to_user(
            pipeline.language.text(sequence.generated)).strip()
        assert 0 < description.confidence <= 1
    assert len({tuple(sequence.generated) for sequence in request.sequences}) >= min(2, regions)  # they do differ


def test_more_regions_than_rows_take_turns(loaded: LoadedModel, make_pipeline: Callable, make_frame: Callable) -> None:
    frame = make_frame(9)
    narrow = make_pipeline(description_rows=2, question_rows=1).describe(frame)
    assert [d.text for d in narrow.descriptions] == [d.text for d in make_pipeline().describe(frame).descriptions]


def test_a_conversation_is_a_full_run_over_its_rounds(loaded: LoadedModel, make_pipeline: Callable,
                                                      make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(3)
    conversation = Conversation("c", frame)
    for question, asked in (("What is region 2?", "What is <region2>?"), ("And region 3?", "And <region3>?"),
                            ("How many are there?", "How many are there?")):
        rounds = [*conversation.rounds, (asked, None)]
        answer = pipeline.ask(conversation, Question(question, "q"))
        assert answer.status is Status.OK
        assert answer.text == reference_text(loaded, pipeline, frame, rounds, 12)
        assert conversation.rounds[-1][0] == asked
    assert len(conversation.rounds) == 3


def test_the_prefix_is_computed_once_and_a_follow_up_costs_its_own_tokens(make_pipeline: Callable,
                                                                          make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(8)
    counters = pipeline.language.generator.counters
    pipeline.describe(frame)
    builder = pipeline.language.prompts
    whole = len(builder.encode([("Describe <region1>.", None)], 8, list_regions=True).input_ids)
    assert counters["prefilled_tokens"] < whole + 8 * 15
    before = counters["prefilled_tokens"]
    conversation = Conversation("c", frame)
    pipeline.ask(conversation, Question("What is region 1?", "q"))
    assert counters["prefilled_tokens"] - before < 25  # the descriptions' prefix serves questions too
    conversation.rounds[-1] = (conversation.rounds[-1][0], "A mug.")
    before = counters["prefilled_tokens"]
    pipeline.ask(conversation, Question("Where?", "q"))
    assert counters["prefilled_tokens"] - before < 25
    assert pipeline.statistics()["frames_encoded"] == 1


def test_an_evicted_conversation_is_recomputed(make_pipeline: Callable, make_frame: Callable) -> None:
    kept, starved = make_pipeline(), make_pipeline(cache_mib=0)
    for pipeline in (kept, starved):
        pipeline.texts = []
        conversation = Conversation("c", make_frame(3))
        for question in ("What is region 2?", "And region 1?"):
            pipeline.texts.append(pipeline.ask(conversation, Question(question, "q")).text)
    assert starved.texts == kept.texts
    assert starved.language.generator.prefixes.bytes == 0 < kept.language.generator.prefixes.bytes


def test_an_answer_about_one_region_that_names_none_carries_it(make_pipeline: Callable, make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(["cup", "left", "7"])

    def region_ids(text: str) -> tuple[str, ...]:
        answer = pipeline.ask(Conversation("c", frame), Question(text))
        assert answer.status is Status.OK and answer.text and "region" not in answer.text
        return answer.region_ids

    assert region_ids("What is region cup?") == ("cup",)
    assert region_ids("Is region 7 a cup?") == ("7",)
    assert region_ids("Is region 7 left of region cup?") == ()
    assert region_ids("What is there?") == ()


def test_a_question_that_leaves_room_for_a_part_of_the_answer_gets_that_part(
        loaded: LoadedModel, make_pipeline: Callable, make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(answer_tokens=10_000, draft_tokens=0), make_frame(2)
    pipeline.language.generator.stop_ids = frozenset()
    conversation = Conversation("c", frame, rounds=[("What is <region1>?", "z q")])
    question = Question("What is region 2?")
    answer = pipeline.ask(conversation, question)
    sequence = question.sequences[0]
    assert answer.status is Status.OK and "cut" in answer.error
    assert len(sequence.prompt) + len(sequence.generated) == loaded.prompts.config.context
    assert pipeline.statistics()["rounds_dropped"] == 1 and len(conversation.rounds) == 1


def test_text_streams_in_pieces_that_make_the_answer(make_pipeline: Callable, make_frame: Callable) -> None:
    pieces: list[str] = []
    answer = make_pipeline(answer_tokens=24).ask(Conversation("c", make_frame(2)),
                                                 Question("What is region 1?", "q", on_text=pieces.append))
    assert "".join(pieces) == answer.text and len(pieces) > 3


def test_a_cancelled_description_stops_within_a_step(make_pipeline: Callable, make_frame: Callable) -> None:
    pipeline = make_pipeline()
    asked = itertools.count()
    result = pipeline.describe(make_frame(4), cancelled=lambda: next(asked) >= 3)
    assert result.status is Status.CANCELED
    assert pipeline.language.generator.live_rows == 0
    full = [d.text for d in make_pipeline().describe(make_frame(4)).descriptions]
    assert all(text.startswith(d.text) and d.text != text for d, text in zip(result.descriptions, full, strict=True))


def test_drafts_from_the_last_frame_save_steps_and_change_nothing(make_pipeline: Callable,
                                                                      make_frame: Callable) -> None:
    drafting, plain = make_pipeline(), make_pipeline(draft_tokens=0)
    frames = [make_frame(5), make_frame(5), make_frame(5, seed=3)]  # the same, the same again, another
    texts = []
    for pipeline in (drafting, plain):
        texts.append([[d.text for d in pipeline.describe(frame).descriptions] for frame in frames])
    assert texts[0] == texts[1]
    counters = drafting.language.generator.counters
    assert counters["accepted_draft_tokens"] >= 5 * 5
    assert counters["steps"] < plain.language.generator.counters["steps"]


def test_a_region_that_looks_the_same_keeps_its_text(make_pipeline: Callable, make_frame: Callable) -> None:
    pipeline = make_pipeline(reuse_distance=0.001, reuse_age_s=2.0)
    frame = make_frame(3)
    first = pipeline.describe(frame)
    assert not any(d.reused for d in first.descriptions)
    moved = dataclasses.replace(frame.regions[1], box=(1.0, 1.0, 40.0, 12.0))
    later = dataclasses.replace(frame, regions=(frame.regions[0], moved, frame.regions[2]), stamp_ns=1_000_000_000)
    second = pipeline.describe(later)
    assert [d.reused for d in second.descriptions] == [True, False, True]
    assert second.descriptions[0].text == first.descriptions[0].text
    assert second.descriptions[0].confidence == first.descriptions[0].confidence
    old = pipeline.describe(dataclasses.replace(frame, stamp_ns=4_000_000_000))
    assert not any(d.reused for d in old.descriptions)
    assert pipeline.statistics()["reuse_rate"] == pytest.approx(2 / 9)


def test_a_text_that_names_a_region_that_moved_is_not_kept(loaded: LoadedModel, make_pipeline: Callable,
                                                           make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(reuse_distance=0.001), make_frame(3)
    request = DescriptionRequest(frame=frame)
    pipeline.begin(request)
    # The tiny model has no words of its own for this: they are put into its mouth.
    request.sequences[0].generated += loaded.tokenizer.encode("left of region2", add_special_tokens=False)
    while not pipeline.step():
        pass
    assert request.result.descriptions[0].text.startswith("left of region 2")
    moved = dataclasses.replace(frame.regions[1], box=(1.0, 1.0, 40.0, 12.0))
    later = dataclasses.replace(frame, regions=(frame.regions[0], moved, frame.regions[2]), stamp_ns=1)
    assert [d.reused for d in pipeline.describe(later).descriptions] == [False, False, True]


def test_sampling_repeats_with_its_seed_and_not_with_another(make_pipeline: Callable, make_frame: Callable) -> None:
    def texts(**how) -> list[str]:
        return [d.text for d in make_pipeline(temperature=1.5, top_p=0.9, **how).describe(make_frame(4)).descriptions]
    assert texts(seed=1) == texts(seed=1) != texts(seed=2)


def test_a_very_small_top_p_is_greedy(make_pipeline: Callable, make_frame: Callable) -> None:
    sampled = make_pipeline(temperature=1.0, top_p=1e-6).describe(make_frame(4))
    greedy = make_pipeline().describe(make_frame(4))
    assert [d.text for d in sampled.descriptions] == [d.text for d in greedy.descriptions]
    assert [d.confidence for d in sampled.descriptions] == pytest.approx([d.confidence for d in greedy.descriptions])


@pytest.mark.parametrize(("text", "status", "named"), [
    ("", Status.INVALID, "empty"),
    (" \n", Status.INVALID, "empty"),
    ("x" * 100_000, Status.INVALID, "100000"),
    ("What is <bbox>?", Status.INVALID, "<bbox>"),
    ("What is <region1>?", Status.INVALID, "<region1>"),
    ("<|im_end|> now", Status.INVALID, "<|im_end|>"),
    ("What is region 77?", Status.UNKNOWN_REGION, "'77'"),
    ("Compare regions 1 and 5.", Status.UNKNOWN_REGION, "'5'"),
])
def test_a_question_that_cannot_be_asked_is_refused_by_name(text: str, status: Status, named: str,
                                                            make_pipeline: Callable, make_frame: Callable) -> None:
    answer = make_pipeline().ask(Conversation("c", make_frame(3)), Question(text, "q7"))
    assert answer.status is status and named in answer.error and answer.query_id == "q7"


def test_this_is_the_drawn_region_or_the_one_last_asserted(make_pipeline: Callable, make_frame: Callable) -> None:
    pipeline = make_pipeline()
    conversation = Conversation("c", make_frame(["cup", "7"]))

    def ask(text: str, *drawn: str) -> tuple[Question, Answer]:
        question = Question(text)
        question.drawn = drawn
        return question, pipeline.ask(conversation, question)

    def asked(text: str, *drawn: str) -> str:
        return ask(text, *drawn)[0].asked

    question, refusal = ask("What is this?")
    assert refusal.status is Status.INVALID and "nothing is pointed at" in refusal.error and question.points_nowhere
    assert not conversation.rounds and not question.asked
    assert asked("What is this?", "7") == "What is <region2>?"
    assert asked("And what is it?", "7") == "And what is <region2>?"
    assert conversation.subject == "7"
    assert asked("What colour is this?") == "What colour is <region2>?" and asked("What is it?") == "What is it?"
    question, refusal = ask("What is this?", "7", "cup")
    assert refusal.status is Status.INVALID and "7, cup" in refusal.error and not question.points_nowhere
    assert asked("Are this and this the same?", "7", "cup") == "Are <region2> and <region1> the same?"


def test_this_is_the_only_region_that_there_is(make_pipeline: Callable, make_frame: Callable) -> None:
    question = Question("What is this?")
    answer = make_pipeline().ask(Conversation("c", make_frame(["cup"])), question)
    assert question.asked == "What is <region1>?" and answer.status is Status.OK
    nothing = make_pipeline().ask(Conversation("c", make_frame(0)), Question("What is this?"))
    assert nothing.status is Status.INVALID and "nothing is pointed at" in nothing.error


def test_a_prompt_longer_than_the_context_is_refused(make_pipeline: Callable, make_frame: Callable) -> None:
    text = " ".join("z q" for _ in range(400))
    answer = make_pipeline().ask(Conversation("c", make_frame(2)), Question(text, "q"))
    assert answer.status is Status.INVALID and "tokens" in answer.error


def test_numbers_that_are_not_finite_fail_the_text_and_nothing_after_it(make_pipeline: Callable,
                                                                        make_frame: Callable) -> None:
    pipeline, frame = make_pipeline(), make_frame(2)
    good = pipeline.describe(frame)
    encoded = pipeline.encoder.encode(make_frame(2, seed=5))
    with torch.inference_mode():
        encoded.vision.image_tokens.mul_(float("nan"))
    failed = pipeline.describe(encoded.frame)
    assert failed.status is Status.FAILED and "finite" in failed.error
    after = pipeline.describe(dataclasses.replace(frame))
    assert [d.text for d in after.descriptions] == [d.text for d in good.descriptions]


def test_the_warm_up_leaves_no_trace(make_pipeline: Callable, make_frame: Callable) -> None:
    warm, cold = make_pipeline(reuse_distance=2.0), make_pipeline()
    warm.warm_up()
    assert not any(value for name, value in warm.statistics().items() if name != "live_rows")
    result = warm.describe(make_frame(3))
    assert not any(d.reused for d in result.descriptions)
    assert [d.text for d in result.descriptions] == [d.text for d in cold.describe(make_frame(3)).descriptions]


def test_after_the_warm_up_the_first_requests_find_everything_prepared(loaded: LoadedModel, make_pipeline: Callable,
                                                                       make_frame: Callable) -> None:
    pipeline = make_pipeline(onnxruntime=False)
    pipeline.warm_up()
    memory = pipeline.language.generator.cache.memory
    frame = make_frame(loaded.config.prompt.max_regions)
    pipeline.describe(frame)
    pipeline.ask(Conversation("c", frame), Question("What is region 1?", "q"))
    assert pipeline.language.generator.cache.memory is memory  # it has not grown


@pytest.mark.parametrize("onnxruntime", [True, False])
def test_memory_that_slows_steps_is_given_back_after_the_last_row(loaded: LoadedModel, make_pipeline: Callable,
                                                                  make_frame: Callable, onnxruntime: bool) -> None:
    pipeline = make_pipeline(onnxruntime=onnxruntime)
    cache, seen = pipeline.language.generator.cache, []
    pipeline.begin(DescriptionRequest(frame=make_frame(loaded.config.prompt.max_regions)))
    while not pipeline.step():
        seen.append(cache.capacity)
    assert max(seen) > 256
    assert cache.capacity == (256 if onnxruntime else max(seen))
