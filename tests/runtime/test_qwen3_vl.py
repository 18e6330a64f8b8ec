"""Qwen3-VL on this package's pipeline against transformers' own generate, on a tiny model of random weights."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from keeping_choices import run_keeping_choices
from qwen_fixtures import image_processor, write_qwen
from transformers import Qwen3VLForConditionalGeneration

from ros_gpt4roi.model.picture import Picture, Pictures
from ros_gpt4roi.model.qwen3_vl import fit_frame
from ros_gpt4roi.runtime.language_model import Body, LlamaBody, TransformersBody
from ros_gpt4roi.runtime.language_stage import DecodingConfig
from ros_gpt4roi.runtime.onnx_language_model import OnnxBody
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.request import Conversation, DescriptionRequest, Question, Sequence
from ros_gpt4roi.runtime.types import Frame, Region, Status
from ros_gpt4roi.runtime.vision_stage import VisionOptions

# Height and width: of a camera, upright, square, and so small that it is enlarged.
SHAPES = [(60, 100), (91, 37), (64, 64), (20, 24)]
TOKENS = 12


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("qwen") / "tiny", tied=request.param)


@pytest.fixture(scope="module")
def network(folder: Path) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def make(folder: Path) -> Callable[..., Pipeline]:
    def pipeline(**decoding) -> Pipeline:
        return Pipeline.open(folder, PipelineConfig(
            device="cpu", language_format="fp32", description_tokens=TOKENS, answer_tokens=TOKENS, reuse_distance=0.0,
            decoding=DecodingConfig(**decoding)))
    return pipeline


def frame_of(shape: tuple[int, int], regions: int, seed: int = 0) -> Frame:
    random, (height, width) = np.random.default_rng(seed), shape
    corners = np.sort(random.uniform(0, 1, (regions, 2, 2)), 1) * (width - 4, height - 4)
    return Frame(random.integers(0, 256, (*shape, 3), dtype=np.uint8),
                 tuple(Region(str(i), (x1, y1, x2 + 3, y2 + 3))
                       for i, ((x1, y1), (x2, y2)) in enumerate(corners.tolist(), 1)), 0, "camera")


def inputs(frame: Frame, sequence: Sequence, network: Qwen3VLForConditionalGeneration) -> dict[str, torch.Tensor]:
    """What transformers' processor makes of the picture, with the tokens of our prompt."""
    ids = torch.from_numpy(sequence.prompt.ids)[None]
    picture = image_processor()(images=[frame.image], return_tensors="pt")
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **picture,
            "mm_token_type_ids": (ids == network.config.image_token_id).int()}


def check(pipeline: Pipeline, frame: Frame, sequence: Sequence, network: Qwen3VLForConditionalGeneration) -> None:
    """Compare a greedy text and its probabilities with transformers' own."""
    given, generator = inputs(frame, sequence, network), pipeline.language.generator
    expected = network.generate(**given, do_sample=False, max_new_tokens=TOKENS, output_logits=True,
                                return_dict_in_generate=True, suppress_tokens=pipeline.language.prompts.never,
                                eos_token_id=sorted(generator.stop_ids))
    ids = [token for token in expected.sequences[0, given["input_ids"].shape[1]:].tolist()
           if token not in generator.stop_ids]
    assert sequence.status is Status.OK and sequence.generated == ids
    for choice, logits in zip(sequence.choices, expected.logits, strict=True):
        logits[0, pipeline.language.prompts.never] = -torch.inf
        mine = torch.tensor([probability for _, probability in choice.likeliest]).log()
        theirs = logits[0].log_softmax(-1)[[token for token, _ in choice.likeliest]]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


def describe(pipeline: Pipeline, frame: Frame) -> list[Sequence]:
    """Describe the regions together, and keep what they were chosen from."""
    return run_keeping_choices(pipeline, DescriptionRequest(frame=frame))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_region_and_eight_in_a_batch_are_what_transformers_generates(
        shape: tuple[int, int], make: Callable[..., Pipeline], network: Qwen3VLForConditionalGeneration) -> None:
    pipeline, texts = make(), set()
    for regions in (1, 8):
        frame = frame_of(shape, regions)
        pipeline.reset()
        before = pipeline.statistics()["prefilled_tokens"]
        sequences = describe(pipeline, frame)
        for sequence in sequences:
            check(pipeline, frame, sequence, network)
            texts.add(tuple(sequence.generated))
        computed = pipeline.statistics()["prefilled_tokens"] - before
        assert computed < len(sequences[0].prompt) + regions * 60, "the picture and the list are computed once"
    assert len(texts) > 4, "regions differ"


@pytest.mark.parametrize("kind", [LlamaBody, OnnxBody, TransformersBody])
def test_whatever_runs_the_steps_writes_the_same(kind: type[Body], make: Callable[..., Pipeline],
                                                network: Qwen3VLForConditionalGeneration,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    if kind is TransformersBody:
        monkeypatch.setattr("ros_gpt4roi.runtime.language_backend._AGREE", {torch.float32: -1.0})
    pipeline, frame = make(onnxruntime=kind is OnnxBody), frame_of(SHAPES[0], 3, seed=1)
    assert isinstance(pipeline.language.generator.body, kind)
    for sequence in describe(pipeline, frame):
        check(pipeline, frame, sequence, network)


def test_follow_ups_and_drawn_boxes_go_on_over_the_same_picture(make: Callable[..., Pipeline],
                                                               network: Qwen3VLForConditionalGeneration) -> None:
    pipeline, frame, heard = make(), frame_of(SHAPES[1], 2, seed=2), []
    describe(pipeline, frame)
    conversation = Conversation("talk", frame)
    for text, regions in (("What is region 2?", ()), ("And that?", (Region("mine", (3.0, 4.0, 30.0, 40.0)),))):
        conversation.frame = conversation.frame.with_regions(regions) if regions else frame
        encoded, before = pipeline.encoder.counters["frames_encoded"], pipeline.statistics()["prefilled_tokens"]
        question = Question(text, on_text=heard.append, subject="mine" if regions else "2")
        question.conversation = conversation
        pipeline.begin(question)
        question.sequences[0].top_k = 8
        while question.result is None:
            pipeline.step()
        check(pipeline, frame, question.sequences[0], network)
        assert question.result.text == "".join(heard)
        assert len(question.sequences[0].prompt) > pipeline.statistics()["prefilled_tokens"] - before > 0
        heard.clear()
        assert pipeline.encoder.counters["frames_encoded"] == encoded + len(regions)
    prompt = pipeline.language.prompts.tokenizer.decode(question.sequences[0].prompt.ids)
    assert '{"bbox_2d": [81, 44, 811, 440], "label": "region 3"}' in prompt


def test_the_picture_is_that_of_transformers_and_within_the_budget(make: Callable[..., Pipeline], folder: Path) -> None:
    budget = make().model_config.preprocess
    for shape in SHAPES:
        image = frame_of(shape, 0).image
        height, width, _ = fit_frame(image, budget).shape
        grid = image_processor()(images=[image], return_tensors="pt")["image_grid_thw"][0].tolist()
        assert [1, height // budget.patch, width // budget.patch] == grid
    small = Pipeline.open(folder, PipelineConfig(device="cpu", vision=VisionOptions(max_pixels=2048)))
    assert small.encoder.encode(frame_of((480, 640), 1)).vision.grid == (2, 3)


def test_positions_are_those_of_transformers_whatever_part_is_asked_for(
        network: Qwen3VLForConditionalGeneration) -> None:
    rows, columns, first, last = 2, 5, 4, 20
    kinds = torch.zeros(1, last, dtype=torch.int)
    kinds[:, first:first + rows * columns] = 1
    ids = torch.where(kinds == 1, network.config.image_token_id, 7).long()
    expected, delta = network.model.get_rope_index(ids, kinds, torch.tensor([[1, 2 * rows, 2 * columns]]))
    picture = Pictures([Picture(first, rows, columns)])
    for begin in range(last):
        for end in range(begin + 1, last + 1):
            found = picture.positions(begin, end)
            assert (np.broadcast_to(found, (3, end - begin)) == expected[:, 0, begin:end].numpy()).all()
            assert (found.ndim == 1) == (end <= first or begin >= first + rows * columns), "text has scalars"
    assert picture.positions(50, 51) == 50 + int(delta)


@pytest.mark.parametrize("number_format", ["int8", "int4", "bf16"])
def test_it_runs_quantised(number_format: str, folder: Path) -> None:
    pipeline = Pipeline.open(folder, PipelineConfig(device="cpu", language_format=number_format, description_tokens=4))
    pipeline.warm_up()
    described = pipeline.describe(frame_of(SHAPES[0], 2))
    assert described.status is Status.OK and len(described.descriptions) == 2
