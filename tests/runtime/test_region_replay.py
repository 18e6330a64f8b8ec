"""Regions as vectors on top of words, against a plain reference: RoIAlign in loops, and transformers' own forward."""
from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from keeping_choices import run_keeping_choices
from qwen_fixtures import MERGE, image_processor, write_qwen
from transformers import Qwen3VLForConditionalGeneration

from ros_gpt4roi.model.__main__ import main as make_model
from ros_gpt4roi.model.checkpoint import CheckpointError, load_any, load_tokenizer, save_checkpoint
from ros_gpt4roi.model.region_words import REGION_PAD
from ros_gpt4roi.runtime.language_stage import DecodingConfig
from ros_gpt4roi.runtime.masks import Mask
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.request import Conversation, DescriptionRequest, Question
from ros_gpt4roi.runtime.request import Sequence as Writing
from ros_gpt4roi.runtime.types import Frame, Region, Status

SIZE, TOKENS = 3, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("replay")
    write_qwen(place / "qwen")
    assert make_model(["assemble", "--from", str(place / "qwen"), str(place / "start"),
                       "--region-size", str(SIZE)]) == 0
    loaded = load_any(place / "start")
    assert not loaded.model.regions.mark.any(), "an untrained model replays what its encoder saw"
    torch.nn.init.normal_(loaded.model.regions.mark, std=0.3)  # as if it had been trained
    save_checkpoint(loaded.model, loaded.tokenizer, place / "trained")
    return place / "trained"


@pytest.fixture(scope="module")
def network(folder: Path) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def pipeline(folder: Path) -> Pipeline:
    return Pipeline.open(folder, PipelineConfig(
        device="cpu", language_format="fp32", description_tokens=TOKENS, answer_tokens=TOKENS, reuse_distance=0.0,
        decoding=DecodingConfig()))


def roi_align(cells: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Of a map [H, W, C] and a box in units of it the means of 2 × 2 bilinear samples in SIZE × SIZE bins."""
    (height, width, _), out = cells.shape, np.zeros((SIZE, SIZE, cells.shape[2]))
    x1, y1, x2, y2 = box[0] * width - 0.5, box[1] * height - 0.5, box[2] * width - 0.5, box[3] * height - 0.5
    for row in range(SIZE):
        for column in range(SIZE):
            for sample in range(4):
                y = y1 + (row + (sample // 2 + 0.5) / 2) * (y2 - y1) / SIZE
                x = x1 + (column + (sample % 2 + 0.5) / 2) * (x2 - x1) / SIZE
                if not (-1 <= y <= height and -1 <= x <= width):
                    continue
                y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
                below, right = min(top + 1, height - 1), min(left + 1, width - 1)
                down, across = y - top, x - left
                above_it = cells[top, left] * (1 - across) + cells[top, right] * across
                below_it = cells[below, left] * (1 - across) + cells[below, right] * across
                out[row, column] += (above_it * (1 - down) + below_it * down) / 4
    return out


def reference(network: Qwen3VLForConditionalGeneration, mark: torch.Tensor, frame: Frame, ids: np.ndarray,
              regions: Sequence[Region], never: list[int], stop: frozenset[int], pad: int,
              masks: Sequence[np.ndarray | None] = ()) -> tuple[list[int], list[torch.Tensor]]:
    """Greedy tokens and their logits, each by transformers' forward over everything before."""
    picture = image_processor()(images=[frame.image], return_tensors="pt")
    rows, columns = (picture["image_grid_thw"][0, 1:] // MERGE).tolist()
    seen = network.model.visual(picture["pixel_values"], grid_thw=picture["image_grid_thw"])
    height, width = frame.image.shape[:2]
    levels, vectors = [seen.pooler_output, *seen.deepstack_features], []
    for number, region in enumerate(regions):
        box = np.array(region.box) / (width, height, width, height)
        weight = masks[number] if masks and masks[number] is not None else np.ones((SIZE, SIZE))
        vectors.append([roi_align(level.double().numpy().reshape(rows, columns, -1), box) * weight[..., None]
                        for level in levels])
    replayed = [torch.from_numpy(np.concatenate([made[level].reshape(SIZE**2, -1) for made in vectors])).float()
                for level in range(len(levels))]
    replayed[0] = replayed[0] + mark
    tokens, chosen, found = torch.from_numpy(ids)[None], list[int](), list[torch.Tensor]()
    is_image, is_region = tokens == network.config.image_token_id, tokens == pad
    assert int(is_region.sum()) == len(regions) * SIZE**2
    # A region is a picture of SIZE × SIZE tokens to transformers, which makes positions of it as of any other.
    grids = torch.tensor([[1, rows * MERGE, columns * MERGE]] + [[1, SIZE * MERGE, SIZE * MERGE]] * len(regions))
    embeddings = network.get_input_embeddings()(tokens)
    embeddings[is_image], embeddings[is_region] = levels[0], replayed[0]
    both, deepstack = is_image | is_region, []
    for level, more in zip(levels[1:], replayed[1:]):
        features = torch.zeros_like(embeddings)
        features[is_image], features[is_region] = level, more
        deepstack.append(features[both])
    positions, delta = network.model.get_rope_index(
        torch.where(is_region, network.config.image_token_id, tokens), both.int(), grids)
    for _ in range(TOKENS):
        hidden = network.model.language_model(
            inputs_embeds=embeddings, position_ids=positions, visual_pos_masks=both,
            deepstack_visual_embeds=deepstack, use_cache=False).last_hidden_state
        logits = network.lm_head(hidden[0, -1])
        logits[never] = -torch.inf
        found.append(logits)
        if (token := int(logits.argmax())) in stop:
            break
        chosen.append(token)
        embeddings = torch.cat([embeddings, network.get_input_embeddings()(torch.tensor([[token]]))], 1)
        both = torch.cat([both, torch.zeros(1, 1, dtype=torch.bool)], 1)
        positions = torch.cat([positions, positions.new_full((3, 1, 1), embeddings.shape[1] - 1 + int(delta))], -1)
    return chosen, found


def check(pipeline: Pipeline, network: Qwen3VLForConditionalGeneration, frame: Frame, writing: Writing,
          regions: Sequence[Region], masks: Sequence[np.ndarray | None] = ()) -> None:
    prompts = pipeline.language.prompts
    mark = pipeline.language._model.regions.mark
    with torch.no_grad():
        ids, logits = reference(network, mark, frame, writing.prompt.ids, regions, prompts.never,
                                pipeline.language.generator.stop_ids,
                                prompts.tokenizer.convert_tokens_to_ids(REGION_PAD), masks)
    assert writing.status is Status.OK and writing.generated == ids
    for choice, expected in zip(writing.choices, logits, strict=True):
        mine = torch.tensor([probability for _, probability in choice.likeliest]).log()
        theirs = expected.log_softmax(-1)[[token for token, _ in choice.likeliest]]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


def frame_of(shape: tuple[int, int], *regions: Region) -> Frame:
    return Frame(np.random.default_rng(5).integers(0, 256, (*shape, 3), dtype=np.uint8), regions, 0, "camera")


REGIONS = (Region("1", (2.0, 3.0, 33.0, 30.0)), Region("2", (10.0, 1.0, 36.5, 55.0)),
           Region("3", (30.0, 40.0, 34.0, 44.0)))


@pytest.mark.parametrize("shape", [(60, 100), (91, 37)], ids=str)
def test_texts_are_those_of_the_reference(shape: tuple[int, int], pipeline: Pipeline,
                                          network: Qwen3VLForConditionalGeneration) -> None:
    texts = set()
    for regions in (REGIONS[:1], REGIONS):
        pipeline.reset()
        frame = frame_of(shape, *regions)
        for writing in run_keeping_choices(pipeline, DescriptionRequest(frame=frame)):
            check(pipeline, network, frame, writing, regions)
            texts.add(tuple(writing.generated))
    prompt = pipeline.language.prompts.tokenizer.decode(writing.prompt.ids)
    vectors = "<|vision_start|>" + REGION_PAD * SIZE**2 + "<|vision_end|>"
    assert prompt.count(vectors) == 3 and "region 1 {" in prompt
    if shape == (60, 100):
        assert f'\nregion 1 {{"bbox_2d": [20, 50, 330, 500]}}{vectors}\n' in prompt
    assert len(texts) > 2, "regions differ"


def test_masks_weigh_the_vectors(pipeline: Pipeline, network: Qwen3VLForConditionalGeneration) -> None:
    # Of a box of 90 × 54 pixels the left two thirds of the upper half.
    cells, texts = np.zeros((60, 100), np.bool_), []
    cells[4:31, 2:62] = True
    flat = cells.T.ravel()
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]]))
    weights = np.outer([1, 0.5, 0], [1, 1, 0])
    for given, weight in ((Mask.of_runs(100, 60, runs), weights), (None, None)):
        pipeline.reset()
        regions = (Region("1", (2.0, 4.0, 92.0, 58.0), mask=given), REGIONS[1])
        frame = frame_of((60, 100), *regions)
        for writing in run_keeping_choices(pipeline, DescriptionRequest(frame=frame)):
            check(pipeline, network, frame, writing, regions, [weight, None])
            texts.append([choice.likeliest for choice in writing.choices])
    assert texts[:2] != texts[2:], "what is masked is not seen"


def test_drawn_boxes_are_replayed_of_the_picture_that_was_encoded(pipeline: Pipeline,
                                                                  network: Qwen3VLForConditionalGeneration) -> None:
    frame, conversation = frame_of((60, 100), *REGIONS[:2]), None
    run_keeping_choices(pipeline, DescriptionRequest(frame=frame))
    conversation = Conversation("talk", frame)
    for text, drawn in (("What is region 2?", ()), ("And that?", (Region("mine", (3.0, 4.0, 30.0, 40.0)),))):
        conversation.frame = conversation.frame.with_regions(drawn) if drawn else frame
        question = Question(text, subject="mine" if drawn else "2")
        question.conversation = conversation
        (writing,) = run_keeping_choices(pipeline, question)
        check(pipeline, network, frame, writing, (*REGIONS[:2], *drawn))


def test_folder_is_transformers_with_a_token_more(folder: Path, network: Qwen3VLForConditionalGeneration) -> None:
    start = folder.parent / "start"
    plain = Qwen3VLForConditionalGeneration.from_pretrained(folder.parent / "qwen", dtype=torch.float32)
    for place in (start, folder):
        same = Qwen3VLForConditionalGeneration.from_pretrained(place, dtype=torch.float32).state_dict()
        assert not [name for name, value in plain.state_dict().items() if not torch.equal(value, same[name])]
        tokenizer = load_tokenizer(place)
        (token,) = tokenizer.encode(REGION_PAD, add_special_tokens=False)
        assert tokenizer.added_tokens_decoder[token].special and token >= len(load_tokenizer(folder.parent / "qwen"))
        config = load_any(place).config
        assert (config.regions.kind, config.regions.size) == ("replay", SIZE)
        assert config.preprocess == load_any(folder.parent / "qwen").config.preprocess


def test_token_gets_the_mean_where_no_embedding_is_to_spare(folder: Path, tmp_path: Path) -> None:
    full, tokenizer = Qwen3VLForConditionalGeneration.from_pretrained(folder.parent / "qwen"), load_tokenizer(
        folder.parent / "qwen")
    full.resize_token_embeddings(len(tokenizer))
    for part in (full, tokenizer):
        part.save_pretrained(tmp_path / "full")
    assert make_model(["assemble", "--from", str(tmp_path / "full"), str(tmp_path / "start")]) == 0
    rows = load_any(tmp_path / "start").model.language.get_input_embeddings().weight
    assert len(rows) == len(tokenizer) + 1
    torch.testing.assert_close(rows[:-1].detach(), full.get_input_embeddings().weight.detach(), rtol=0, atol=0)
    torch.testing.assert_close(rows[-1], rows[:-1].mean(0))


def test_vectors_take_at_most_half_of_the_context(folder: Path) -> None:
    prompt = load_any(folder).config.prompt
    assert prompt.max_regions == 32 and prompt.context == 2048
    assert make_model(["assemble", "--from", str(folder.parent / "qwen"), str(folder.parent / "large"),
                       "--region-size", "16"]) == 0
    large = load_any(folder.parent / "large").config
    assert large.prompt.max_regions == 4 and large.prompt.context // 2 == 4 * math.prod((16, 16))


def test_what_cannot_be_assembled_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(folder.parent / "qwen")
    for arguments, message in (
            ([str(folder), str(tmp_path / "out")], "its regions are vectors already"),
            ([source, source], "holds other weights, which would be lost"),
            ([str(tmp_path), str(tmp_path / "out")], "expected a checkpoint folder with config.json"),
            ([source, str(tmp_path / "out"), "--region-size", "99"], "size is 99, expected")):
        assert make_model(["assemble", "--from", *arguments]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out" / "config.json").exists()
    for arguments in ([str(tmp_path / "out")], [source, str(tmp_path / "out"), "--from", source, "--vision", source]):
        with pytest.raises(SystemExit):
            make_model(["assemble", *arguments])
        assert "expected either --from, or a language model and --vision" in capsys.readouterr().err
    (folder.parent / "wrong").mkdir()
    for path in folder.iterdir():
        (folder.parent / "wrong" / path.name).write_bytes(path.read_bytes())
    config = folder.parent / "wrong" / "config.json"
    config.write_text(config.read_text().replace('"kind": "replay"', '"kind": "repeat"'))
    with pytest.raises(CheckpointError, match="ros_gpt4roi: regions.kind is 'repeat', expected text or replay"):
        load_any(config.parent)
