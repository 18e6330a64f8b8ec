"""Rendered scenes on disk, the data set over them, and the evaluation: all with the real renderer and a real model."""

from __future__ import annotations

import json
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ros_gpt4roi.model.checkpoint import LoadedModel, build_model, load_checkpoint, read_config, save_checkpoint
from ros_gpt4roi.model.preprocess import preprocess_frame
from ros_gpt4roi.model.region_shapes import area_sample, box_region
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.sim.tabletop.conversations import SCORED_TASKS
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import HELD_OUT
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES
from training import evaluate
from training.data.record import Record, check_record
from training.data.scene_files import ScenesError, render_scenes
from training.data.tabletop import TABLETOP, TabletopDataset, main
from training.evaluation.model import answers
from training.evaluation.scenes import QUESTIONS
from training.evaluation.tabletop import PER_REGION, examine, summary
from training.from_scratch.start import with_vocabulary
from training.from_scratch.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
PREPROCESS = read_config(find_model("tabletop")).preprocess
SCENES = 6


def render(folder: Path, scenes: int = SCENES, seed: int = 4) -> Path:
    return render_scenes(TABLETOP, folder, "train", scenes, seed, workers=1, preprocess=PREPROCESS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return render(tmp_path_factory.mktemp("scenes") / "train")


@pytest.fixture(scope="module")
def renderer():
    with TabletopRenderer() as renderer:
        yield renderer


@pytest.fixture(scope="module")
def loaded(folder) -> LoadedModel:
    """A model of random weights, large enough that it says something else to every question."""
    torch.manual_seed(0)
    config = read_config(find_model("tabletop"))
    dataset = TabletopDataset(folder)
    texts = [re.sub("<(region[0-9]+)>", r"\1", text) for epoch in range(20) for i in range(SCENES)
             for turn in _at(dataset, epoch, i).rounds for text in (turn.question, turn.answer)]
    tokenizer = train_tokenizer(texts, 400, config.prompt.template)
    loaded = build_model(with_vocabulary(config, tokenizer), tokenizer)
    with torch.no_grad():
        for name, weight in loaded.model.language.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(4)
    loaded.model.eval()
    return loaded


def _at(dataset: TabletopDataset, epoch: int, index: int):
    dataset.set_epoch(epoch)
    return dataset[index]


def test_images_are_the_frames_the_renderer_gives(folder, renderer):
    dataset = TabletopDataset(folder)
    assert len(dataset) == SCENES
    for index in range(SCENES):
        scene = renderer.render("train", 4, index)
        np.testing.assert_array_equal(dataset[index].image, preprocess_frame(scene.image, PREPROCESS))
        assert dataset.scene(index).objects == scene.objects


def test_boxes_and_attributes_follow_the_shuffled_regions(folder):
    dataset = TabletopDataset(folder)
    orders = set()
    for epoch in range(4):
        for index in range(SCENES):
            sample, scene = _at(dataset, epoch, index), dataset.scene(index)
            truth = {tuple(o.box): tuple(getattr(o, name) for name in ATTRIBUTES) for o in scene.objects}
            boxes = [tuple(int(v) for v in np.round(b * [320, 240, 320, 240])) for b in sample.boxes]
            assert sample.boxes.dtype == np.float32 and sample.attributes.dtype == np.int64
            assert sorted(boxes) == sorted(truth)
            for box, labels in zip(boxes, sample.attributes):
                assert truth[box] == tuple(values[k] for values, k in zip(ATTRIBUTES.values(), labels))
            orders.add((index, tuple(boxes)))
    assert len(orders) > 2 * SCENES


def test_samples_are_functions_of_seed_epoch_and_index(folder):
    first, again, other = (TabletopDataset(folder, seed=s) for s in (1, 1, 2))
    assert _at(first, 3, 2).rounds == _at(again, 3, 2).rounds
    assert _at(first, 3, 2).rounds != _at(first, 4, 2).rounds
    assert _at(first, 3, 2).rounds != _at(other, 3, 2).rounds


def test_loader_processes_change_nothing(folder):
    dataset = TabletopDataset(folder, seed=7)
    alone = [dataset[i].rounds for i in range(SCENES)]
    shared = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert [sample.rounds for sample in shared] == alone


@pytest.mark.parametrize("texts", ["captions", "recall", "conversations"])
def test_rounds_make_valid_records(folder, texts):
    dataset = TabletopDataset(folder, texts=texts)
    for index in range(SCENES):
        scene, sample = dataset.scene(index), dataset[index]
        check_record(Record(sample.image, scene.boxes(), tuple(sample.rounds), f"tabletop {index}"))
        if texts == "captions":
            assert len(sample.rounds) == len(scene.objects)


def test_training_scenes_lack_the_held_out_pairs(folder):
    dataset = TabletopDataset(folder)
    pairs = {(o.kind, o.colour) for i in range(SCENES) for o in dataset.scene(i).objects}
    assert pairs and not pairs & HELD_OUT


def test_masks_of_the_visible_pixels_follow_the_shuffled_regions(tmp_path, renderer):
    folder, model = render(tmp_path / "train", 2), read_config(find_model("tabletop"))
    with pytest.raises(ScenesError, match="repeat the render command"):
        TabletopDataset(folder, masks=1.0)
    render_scenes(TABLETOP, folder, "train", 2, 4, workers=1, preprocess=PREPROCESS, masks=True)
    boxes, masks = (TabletopDataset(folder, model=model, masks=share) for share in (0.0, 1.0))
    for index in range(2):
        whole, sample, scene = boxes[index], masks[index], renderer.render("train", 4, index)
        assert whole.masks is None and sample.masks.shape == (len(scene.objects), 7, 7)
        np.testing.assert_array_equal(whole.boxes, sample.boxes)
        assert whole.rounds == sample.rounds
        seen = {tuple(o.box): scene.owner[o.box[1]:o.box[3], o.box[0]:o.box[2]] == o.object_index
                for o in scene.objects}
        for box, mask in zip(sample.boxes, sample.masks):
            place = tuple(np.round(box * ((scene.width, scene.height) * 2)).astype(int).tolist())
            np.testing.assert_array_equal(mask, area_sample(seen[place], 7))
        assert (sample.masks < 1).any() and sample.masks.max() == 1
    some = TabletopDataset(folder, model=model, masks=0.5, jitter=0.2)
    shown = [(sample.boxes[place], sample.masks[place], whole.boxes[place], of_all[place])
             for sample, whole, of_all in ((some[index], boxes[index], masks[index].masks) for index in range(2))
             for place in range(len(sample.boxes)) if sample.masks is not None]
    masked = [np.array_equal(mask, its) for _, mask, _, its in shown]
    assert 0 < sum(masked) < len(masked)
    for (box, mask, exact, _), is_masked in zip(shown, masked):
        assert is_masked or mask.min() == 1
        assert np.array_equal(box, exact) == is_masked  # a mask lies in its box, other boxes are moved


def test_a_share_of_the_objects_becomes_points_inside_them(folder):
    model = read_config(find_model("tabletop"))
    whole = TabletopDataset(folder, model=model)
    numbers = []
    for seed_of_epoch in range(5):
        pointed = TabletopDataset(folder, model=model, points=0.5)
        for index in range(SCENES):
            sample, boxes = _at(pointed, seed_of_epoch, index), _at(whole, seed_of_epoch, index)
            assert sample.rounds == boxes.rounds
            for number, (point, box) in enumerate(zip(sample.boxes, boxes.boxes), 1):
                if number in sample.points:
                    centre = (point[:2] + point[2:]) / 2
                    assert (box[:2] <= centre).all() and (centre <= box[2:]).all()
                    assert point[2] - point[0] == pytest.approx(0.05 * 0.75, abs=1e-6), "of the shorter side"
                else:
                    assert (point == box).all()
                numbers.append(number in sample.points)
    assert 0.3 < np.mean(numbers) < 0.7


def test_rendering_goes_on_where_it_stopped(folder, tmp_path):
    whole = (folder / "shard-00000.npy").read_bytes()
    render(tmp_path / "again")
    again = tmp_path / "again" / "shard-00000.npy"
    assert again.read_bytes() == whole
    finished = again.stat().st_mtime_ns
    render(tmp_path / "again")
    assert again.stat().st_mtime_ns == finished, "what is whole must not be rendered again"
    # A shard whose ground truth is missing was interrupted.
    (tmp_path / "again" / "shard-00000.jsonl").unlink()
    with pytest.raises(ScenesError, match="shard-00000 is not finished"):
        TabletopDataset(tmp_path / "again")
    render(tmp_path / "again")
    assert len(TabletopDataset(tmp_path / "again")) == SCENES
    # A crash of the machine can leave files cut short.
    again.write_bytes(whole[:-1])
    with pytest.raises(ScenesError, match="shard-00000 is not finished"):
        TabletopDataset(tmp_path / "again")
    render(tmp_path / "again")
    assert again.read_bytes() == whole
    # Whatever else lies there is no shard either.
    for other in (np.uint8(1), np.zeros((SCENES, 2), np.uint8), np.zeros((SCENES, 2, 2, 3))):
        np.save(again, other)
        with pytest.raises(ScenesError, match="shard-00000 is not finished"):
            TabletopDataset(tmp_path / "again")
    np.savez(tmp_path / "zip.npz", other)
    (tmp_path / "zip.npz").replace(again)
    render(tmp_path / "again")
    assert again.read_bytes() == whole
    assert not list((tmp_path / "again").glob("*.unfinished"))


def test_a_folder_of_other_scenes_is_refused(folder):
    with pytest.raises(ScenesError, match="seed 4 instead of 5"):
        render(folder, seed=5)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--scenes", "2", "--out", "{file}/scenes"], "Not a directory"),
    (["--scenes", "0", "--out", "{folder}"], "at least 1"),
    (["--scenes", "100000000", "--out", "{folder}"], "GB free"),
    (["--scenes", "1" + "0" * 30, "--out", "{folder}"], "GB free"),
    (["--scenes", "1", "--out", "{folder}", "--size", "0x0"], "image size 0×0: each side must be 32 to 4096 pixels"),
    (["--scenes", "1", "--out", "{folder}", "--seed", "-1"], "seed 0, got 1, 2 and -1"),
    (["--scenes", "1", "--out", "{folder}", "--model", "none"], "model is 'none'; expected a folder or an installed"),
])
def test_what_cannot_be_rendered_is_said(tmp_path, capsys, arguments, message):
    file = tmp_path / "file"
    file.touch()
    places = [a.format(file=file, folder=tmp_path / "scenes") for a in arguments]
    assert main(["render", "--split", "train", "--seed", "1", *places]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "scenes" / "dataset.json").exists(), "with it, right arguments would be refused there"


@pytest.mark.parametrize("line", [b"[[1, 2", b"5", b'[["mug"]]', b"\xff"])
def test_a_damaged_line_is_named_and_costs_only_its_scene(folder, tmp_path, line):
    shutil.copytree(folder, tmp_path / "scenes")
    truth = tmp_path / "scenes" / "shard-00000.jsonl"
    first, _, *others = truth.read_bytes().splitlines()
    truth.write_bytes(b"\n".join([first, line, *others, b""]))
    dataset = TabletopDataset(tmp_path / "scenes")
    assert dataset[0].rounds and dataset[2].rounds
    with pytest.raises(ScenesError, match=r"shard-00000.jsonl: line 2 is no scene .*repeat the render command"):
        dataset[1]


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"scenes": "many"}', '{"scenes": 1', ""])
def test_a_manifest_that_is_none_is_named(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    for opened in (lambda: render(tmp_path), lambda: TabletopDataset(tmp_path)):
        with pytest.raises(ScenesError, match="dataset.json: .*expected the manifest of rendered scenes"):
            opened()


def test_a_manifest_of_more_scenes_than_there_can_be_costs_no_memory(tmp_path):
    (tmp_path / "dataset.json").write_text('{"scenes": 1000000000000000}')
    with pytest.raises(ScenesError, match="shard-00000 is not finished"):
        TabletopDataset(tmp_path)


def test_a_disk_that_takes_no_more_is_an_error_with_the_folder_in_it(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # the rendering processes inherit it
    try:
        with pytest.raises(ScenesError, match=f"{tmp_path}: cannot write the scenes"):
            render(tmp_path, 2, seed=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "shard-00000.jsonl").exists()


# ---------------------------------------------------------------------------------------------- evaluation

def one_by_one(loaded: LoadedModel, vision, prompt, limit: int) -> tuple[str, int]:
    """The greedy answer without batch, cache or shared beginning; and how many tokens it has."""
    model, ids = loaded.model, list[int]()
    end = loaded.tokenizer.convert_tokens_to_ids(loaded.prompts.stop_text)
    embeddings = model.embed(torch.tensor([prompt.input_ids]), vision, torch.tensor([prompt.region_index]))
    while len(ids) < limit:
        token = model.language(inputs_embeds=embeddings).logits[0, -1].argmax()
        if token == end:
            break
        ids.append(int(token))
        embeddings = torch.cat([embeddings, model.language.get_input_embeddings()(token)[None, None]], dim=1)
    return loaded.tokenizer.decode(ids, skip_special_tokens=True).strip(), len(ids)


def test_batched_answers_equal_those_given_one_by_one(folder):
    # The embedded model: its answers end at different times, so that rows leave the batch.
    embedded = load_checkpoint(ROOT / "models" / "tabletop")
    sample = TabletopDataset(folder)[0]
    rounds = [[(turn.question, None)] for turn in sample.rounds[:5]]
    rounds.append([(sample.rounds[0].question, sample.rounds[0].answer), ("Why?", None)])
    rounds.append([(embedded.config.prompt.describe.replace("{region}", "<region1>"), None)])
    prompts = [embedded.prompts.encode(r, len(sample.boxes), list_regions=True) for r in rounds]
    pipeline = Pipeline(embedded, PipelineConfig())
    regions = [box_region(*box) for box in (sample.boxes * sample.image.shape[0]).tolist()]
    with torch.inference_mode():
        vision = embedded.model.encode(torch.from_numpy(sample.image)[None], torch.from_numpy(sample.boxes)[None])
        expected = [one_by_one(embedded, vision, prompt, 40) for prompt in prompts]
    assert len({length for _, length in expected}) > 2
    assert answers(pipeline, sample.image, regions, rounds, max_new_tokens=40) == [text for text, _ in expected]
    assert pipeline.statistics()["prefilled_tokens"] < len(prompts) * embedded.prompts.image_tokens, "shared beginning"
    assert answers(pipeline, sample.image, regions, rounds[:1], max_new_tokens=40) == [expected[0][0]]


def test_every_region_and_every_task_is_asked(renderer, loaded):
    scene = renderer.render("test", 11, 0)
    pipeline = Pipeline(loaded, PipelineConfig())
    asked = examine(pipeline, scene, np.random.default_rng(0))
    again = examine(pipeline, scene, np.random.default_rng(0), zero_regions=True)
    assert [a.turn for a in asked] == [a.turn for a in again], "the control must be asked the same questions"
    assert [a.said for a in asked] != [a.said for a in again], "the answers must depend on the region embeddings"
    for regions in ("masks", "points"):
        shown = examine(pipeline, scene, np.random.default_rng(0), regions=regions, tasks=("kind", "colour"))
        assert [a.turn for a in shown] == [a.turn for a in asked if a.turn.task in ("kind", "colour")]
        assert {a.said for a in shown} != {a.said for a in asked if a.turn.task in ("kind", "colour")}
    figures = summary(asked)
    for task in SCORED_TASKS:
        assert figures["counts"][task] == (len(scene.objects) if task in PER_REGION else QUESTIONS)
        assert 0 <= figures[task] <= 1 and 0 < figures["chance"][task] <= 1
    regions = {a.turn.regions[0] for a in asked if a.turn.task == "kind"}
    assert regions == set(range(1, len(scene.objects) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("how, run_as", [((), ("int8", "onnxruntime")), (("--reference",), ("fp32", "torch"))])
def test_command_writes_figures_and_answers(tmp_path, loaded, capsys, how, run_as):
    save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "model")
    figures, answers = tmp_path / "figures.json", tmp_path / "answers.jsonl"
    status = evaluate.main(["tabletop", "--model", str(tmp_path / "model"), "--scenes", "2", "--seed", "3",
                            "--device", "cpu", "--json", str(figures), "--answers", str(answers), *how])
    assert status == 0
    facts = json.loads(figures.read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert {line["scene"] for line in lines} == {0, 1}
    for task in SCORED_TASKS:
        right = [line["right"] for line in lines if line["task"] == task]
        assert facts["counts"][task] == len(right)
        assert facts[task] == pytest.approx(sum(right) / len(right), abs=1e-4)
    assert facts["seed"] == 3 and facts["scenes"] == 2 and len(facts["model"]["sha256"]) == 64
    assert (facts["model"]["language_format"], facts["model"]["vision_backend"]) == run_as
    assert "relations" in capsys.readouterr().out


def test_command_says_what_is_missing(tmp_path, capsys):
    assert evaluate.main(["tabletop", "--model", str(tmp_path / "none"), "--scenes", "1"]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert evaluate.main(["tabletop", "--model", "x", "--json", str(tmp_path / "no" / "file.json")]) == 1
    assert "does not exist" in capsys.readouterr().err
