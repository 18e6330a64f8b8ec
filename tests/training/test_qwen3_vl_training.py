"""A Qwen3-VL that sees vectors of regions, through both stages to what the pipeline runs; tiny, of random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_fixtures as fixtures
import yaml
from recipe_fixtures import ROOT, losses
from transformers import Qwen3VLForConditionalGeneration

sys.path.insert(0, str(ROOT / "tests" / "model"))
from qwen_fixtures import write_qwen  # noqa: E402

from ros_gpt4roi.model.__main__ import main as make_model  # noqa: E402
from ros_gpt4roi.model.checkpoint import load_any  # noqa: E402
from ros_gpt4roi.runtime.adapter_folder import read_adapter  # noqa: E402
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig  # noqa: E402
from ros_gpt4roi.runtime.types import Frame, Region, Status  # noqa: E402
from training.collate import ConversationCollator  # noqa: E402
from training.data import DataError, open_dataset  # noqa: E402
from training.data.record import Record, Round  # noqa: E402
from training.data.sample import Sample, make_sample  # noqa: E402
from training.deploy import deploy  # noqa: E402
from training.recipe import RecipeError, read_recipe  # noqa: E402
from training.train import train  # noqa: E402
from training.trainer import ADAPTER_FOLDER  # noqa: E402


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    write_qwen(folder / "qwen")
    assert make_model(["assemble", "--from", str(folder / "qwen"), str(folder / "start"), "--region-size", "2"]) == 0
    return folder / "start"


def samples_of(start: Path) -> list[Sample]:
    """Pictures of two sizes, with masks, with a point."""
    random, config = np.random.default_rng(0), load_any(start).config
    mask = np.zeros((20, 20), np.float32)
    mask[5:] = 1
    made = []
    for shape, boxes, masks, points in (((60, 100), 2, (mask, None), {}), ((91, 37), 1, None, {1: (20.0, 30.0)})):
        corners = np.array([[2, 3, 22, 23], [10, 5, 34, 50]], np.float32)[:boxes]
        rounds = [Round("What is <region1>?", "A red mug."), Round("And that?", "It is small.")]
        record = Record(random.integers(0, 256, (*shape, 3), np.uint8), corners, rounds, "made", masks=masks,
                        points=points)
        made.append(make_sample(record, config))
    return made


def test_a_batch_is_computed_as_its_conversations_alone(start: Path) -> None:
    loaded = load_any(start)
    torch.nn.init.normal_(loaded.model.regions.mark, std=0.3)
    samples, collate = samples_of(start), ConversationCollator(loaded.prompts)
    assert samples[0].image.shape != samples[1].image.shape and samples[0].masks is not None
    with torch.no_grad():
        both = loaded.model(**collate(samples))
        for row, sample in enumerate(samples):
            alone = loaded.model(**collate([sample]))
            length = alone.logits.shape[1]
            torch.testing.assert_close(both.logits[row, :length], alone.logits[0], rtol=0, atol=1e-4)
            assert torch.isfinite(alone.loss)


def test_what_is_learned_is_the_answers_and_the_prompt_is_the_robots(start: Path) -> None:
    loaded, sample = load_any(start), samples_of(start)[0]
    encoded = ConversationCollator(loaded.prompts).encode(sample)
    tokenizer = loaded.tokenizer
    learned = [token for token, label in zip(encoded.input_ids, encoded.labels) if label >= 0]
    assert tokenizer.decode(learned) == "A red mug.<|im_end|>It is small.<|im_end|>"
    robots = loaded.prompts.of_frame(sample.image_tokens, sample.boxes).encode(
        [("What is <region1>?", None)], 2, list_regions=True)
    assert encoded.input_ids[:len(robots.input_ids)] == robots.input_ids
    assert [index for index in encoded.region_index if index >= 0] == list(range(8)), "two regions of 2 × 2 vectors"


def recipe_for(folder: Path, start: Path) -> Path:
    """The recipe that comes with the code, on small files of the same formats, for a few steps on a CPU."""
    recipe = yaml.safe_load((ROOT / "training" / "configs" / "qwen3_vl.yaml").read_text())

    def small(source: dict[str, Any], place: Path) -> dict[str, Any]:
        name = source.get("dataset", source.get("form"))
        files = getattr(fixtures, source["type"])(place, *([name] if name else []))
        return json.loads(json.dumps({**source, **files}, default=str))

    for section in ("train", "validation"):
        recipe[section] |= {"cache": str(folder / "cache"), "sources": [
            small(source, folder / section / str(number)) for number, source in enumerate(recipe[section]["sources"])]}
    recipe["arguments"] |= {"bf16": False, "dataloader_num_workers": 0, "report_to": "none", "disable_tqdm": True}
    for stage, rate in zip(recipe["stages"], (0.3, 1e-2)):
        stage["arguments"] = {"max_steps": 6, "logging_steps": 1, "eval_steps": 6, "learning_rate": rate,
                              "per_device_train_batch_size": 2, "lr_scheduler_type": "constant", "warmup_steps": 0}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "model": str(start)}))
    return path


@pytest.mark.slow
def test_both_stages_learn_and_the_pipeline_runs_what_comes_out(start: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, start)
    final = train(read_recipe(recipe), tmp_path / "run")
    states = [load_any(folder).model.state_dict() for folder in (start, tmp_path / "run" / "stage1" / "final", final)]

    def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
        return {key.partition(".")[0] for key in before if not torch.equal(before[key], after[key])}

    assert moved(*states[:2]) == {"regions"} and moved(*states[1:]) == {"regions", "language"}
    for stage in ("stage1", "stage2"):
        found = losses(tmp_path / "run" / stage)
        assert len(found) == 6 and np.mean(found[-2:]) < np.mean(found[:2]), found
    # What stage 2 taught the language model is an adapter that fits the model, too.
    adapter = read_adapter(tmp_path / "run" / "stage2" / ADAPTER_FOLDER, load_any(start).model.language.base_model,
                           torch.float32, torch.device("cpu"))
    assert len(adapter.weights) == 4 * 7, "seven linear layers of four"
    deploy(recipe, tmp_path / "run", tmp_path / "robot", ["int8"])
    pipeline = Pipeline.open(tmp_path / "robot", PipelineConfig(device="cpu", language_format="int8",
                                                                description_tokens=4, answer_tokens=4))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    frame = Frame(pixels, (Region("1", (2, 2, 20, 20)), Region("2", (30, 10, 60, 40))), 0, "camera")
    described = pipeline.describe(frame)
    assert described.status is Status.OK and [d.region.id for d in described.descriptions] == ["1", "2"]
    # It is a folder of transformers still.
    Qwen3VLForConditionalGeneration.from_pretrained(final)


def test_what_is_for_other_models_is_refused(start: Path, tmp_path: Path) -> None:
    path = recipe_for(tmp_path, start)
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, "changes": {"regions": {"size": 3}}}))
    with pytest.raises(RecipeError, match="model is a Qwen3-VL.*assemble --from"):
        train(read_recipe(path), tmp_path / "run")
    with pytest.raises(DataError, match="expected kind mixture or shards for a Qwen3-VL"):
        open_dataset({"kind": "tabletop", "scenes": 1, "split": "train", "seed": 1}, tmp_path, 0,
                     load_any(start).config)
