"""The evaluation on household scenes: that who knows the truth gets all, who guesses gets what guessing gives, and that
the command asks a real model of random weights everything."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ros_gpt4roi.model.checkpoint import build_model, read_config, save_checkpoint
from ros_gpt4roi.model.config import PointConfig
from ros_gpt4roi.model.region_shapes import RegionShape
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.language_stage import Rounds
from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.household.catalogue import AssetsError, find_assets, kinds
from ros_gpt4roi.sim.household.conversations import SCORED_TASKS
from ros_gpt4roi.sim.household.relations import HouseholdRelations
from ros_gpt4roi.sim.household.scene import HouseholdScene
from ros_gpt4roi.sim.spatial_relations import OPPOSITE
from training import evaluate
from training.evaluation import household
from training.evaluation.household import Examined, examine, new_kinds, scene_questions, summary, table
from training.evaluation.household_claims import claims
from training.evaluation.scenes import Examinee
from training.from_scratch.start import with_vocabulary
from training.from_scratch.tokenizer import train_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "sim" / "household"))
from household_texts import make_scene  # noqa: E402, scenes without pixels

SCENES = 30


@functools.cache
def questions_of(number: int, split: str) -> tuple[HouseholdScene, dict[str, str]]:
    """A scene, and the true answers to what `examine` will ask about it."""
    scene, rng = replace(make_scene(number, split), split=split, index=number), np.random.default_rng(number)
    shuffled = permuted(scene, rng)
    asked = scene_questions(shuffled, HouseholdRelations(shuffled), rng)
    return scene, {turns[-1].question: turns[-1].answer for turns in asked}


def ask_all(say: Callable[[str, str], str], split: str = "test", scenes: int = SCENES) -> Examined:
    """What somebody gets who says something about (the question, the true answer)."""
    found = Examined([], [])
    for number in range(scenes):
        scene, truth = questions_of(number, split)

        def answer(image: np.ndarray, shapes: Sequence[RegionShape], asked: Sequence[Rounds],
                   truth: dict[str, str] = truth, scene: HouseholdScene = scene) -> list[str]:
            assert len(shapes) == len(scene.objects) and all(rounds[-1][1] is None for rounds in asked)
            return [re.sub(r"<(region\d+)>", r"\1", say(rounds[-1][0], truth[rounds[-1][0]])) for rounds in asked]

        part = examine(Examinee(answer, 384, PointConfig()), scene, np.random.default_rng(number))
        found.asked.extend(part.asked)
        found.claims.extend(part.claims)
    return found


def test_who_knows_the_truth_gets_everything() -> None:
    found = ask_all(lambda question, truth: truth)
    figures = summary(found)
    for task in SCORED_TASKS:
        assert figures[task] == 1, [(a.turn, a.said) for a in found.asked if a.turn.task == task and not a.right][:3]
        assert figures["counts"][task] >= 15 and 0 < figures["chance"][task] < 0.75
    assert figures["claims"]["true"] == 1 and figures["claims"]["count"] > 3 * figures["counts"]["describe"]
    assert {of["fraction"] for of in figures["yes_no_by_truth"].values()} == {1}
    assert figures["cant_tell"]["rightly"] == 1 and figures["cant_tell"]["said"] > 5
    assert sum(band["count"] for band in figures["by_box"]["kind"].values()) == figures["counts"]["kind"]
    assert "100.0" in table(figures)


@pytest.mark.parametrize(("says", "right"), [
    ("Yes, it is a mug.", "yes"), ("No.", "no"), ("It is a mug.", None),
    ("I can't tell: too little is seen.", None), ("", None),
])
def test_who_always_says_the_same_gets_what_guessing_gives(says: str, right: str | None) -> None:
    figures = summary(ask_all(lambda question, truth: says))
    for task in SCORED_TASKS:
        assert figures[task] <= figures["chance"][task] + 0.12, task
    for truth, of in figures["yes_no_by_truth"].items():
        assert of["fraction"] == (truth == right)
    share = figures["yes_no_by_truth"]["yes"]["count"] / sum(of["count"] for of in figures["yes_no_by_truth"].values())
    assert 0.35 < share < 0.65, "a yes and a no are worth the same"


def test_regions_that_are_swapped_are_wrong() -> None:
    """An answer about the next region is right only by accident."""
    def next_region(question: str, truth: str) -> str:
        return re.sub(r"<region(\d+)>", lambda match: f"<region{int(match[1]) + 1}>", truth)

    figures = summary(ask_all(next_region))
    assert figures["which_region"] < 0.2 and figures["nearest_between"] == 0 and figures["claims"]["true"] < 0.95
    assert figures["colour"] == figures["material"] == 1


def test_things_of_new_kinds_are_told_apart_by_what_they_are_called() -> None:
    names = {key: kind.name for key, kind in kinds().items()}
    held_out = [key for key, kind in kinds().items() if kind.held_out]
    assert all(kinds()[key].related for key in held_out)
    assert not any(kinds()[other].held_out for key in held_out for other in kinds()[key].related)

    def call(how: Callable[[str], str]) -> dict:
        truth_of = {f"It is a {names[key]}.": key for key in held_out}
        return new_kinds(ask_all(lambda question, truth: how(truth_of[truth]) if truth in truth_of else truth,
                                 "unseen", 10).asked)

    for expected, how in {
        "named": lambda key: f"It is a {names[key]}.",
        "related": lambda key: f"That looks like a {names[kinds()[key].related[0]]}.",
        "unknown": lambda key: "I don't know what that is.",
        "another": lambda key: "It is a stove.",
    }.items():
        figures = call(how)
        assert figures["count"] >= 4 and figures[expected] == 1, expected


def test_what_a_description_states_is_checked_one_by_one() -> None:
    scene = next(s for s in map(make_scene, range(50)) if any(o.kind == "mug" for o in s.objects))
    place = next(i for i, o in enumerate(scene.objects) if o.kind == "mug")
    colour = next(c for c in ("green", "black") if c not in scene.objects[place].colours)
    assert claims(scene, place, "A ceramic mug.") == [True, True]
    assert claims(scene, place, f"A {colour} metal mug.") == [True, False, False]
    assert claims(scene, place, "A ketchup bottle. It is on region99.") == [False, False]
    assert claims(scene, place, "A mug. It is for hot drinks.") == [True]
    relations = HouseholdRelations(scene)
    other, relation = next((j, r) for j in range(relations.count) for r in relations.clear_relations(j, place))
    for said in (f"region{other + 1} is {relation} it.", f"<region{other + 1}>, the thing, is {relation} it.",
                 f"It is {OPPOSITE[relation]} region{other + 1}."):
        assert claims(scene, place, f"A mug. {said}") == [True, True], said
    assert claims(scene, place, f"A mug. region{other + 1} is {OPPOSITE[relation]} it.") == [True, False]
    assert claims(scene, place, "") == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of random weights that has the words of the household."""
    torch.manual_seed(0)
    config = read_config(find_model("tabletop"))
    texts = [text for number in range(SCENES) for pair in questions_of(number, "test")[1].items() for text in pair]
    tokenizer = train_tokenizer([re.sub(r"<(region\d+)>", r"\1", text) for text in texts], 600, config.prompt.template)
    loaded = build_model(with_vocabulary(config, tokenizer), tokenizer)
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(loaded.model, loaded.tokenizer, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--split", "unseen", "--zero-regions", "--jitter", "0.1")])
def test_command_asks_a_real_model_everything(tmp_path: Path, folder: Path, more: tuple[str, ...],
                                              capsys: pytest.CaptureFixture[str]) -> None:
    try:
        find_assets()
    except AssetsError as error:
        pytest.skip(str(error))
    figures, said = tmp_path / "figures.json", tmp_path / "answers.jsonl"
    assert evaluate.main(["household", "--model", str(folder), "--scenes", "2", "--seed", "3", "--device", "cpu",
                          "--json", str(figures), "--answers", str(said), *more]) == 0
    facts = json.loads(figures.read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in said.read_text(encoding="utf-8").splitlines()]
    for task in SCORED_TASKS:
        right = [line["right"] for line in lines if line["task"] == task]
        assert facts["counts"][task] == len(right)
        assert facts[task] == (pytest.approx(sum(right) / len(right), abs=1e-4) if right else None)
    assert facts["split"] == ("unseen" if more else "test") and facts["zero_regions"] == bool(more)
    assert facts["jitter"] == (0.1 if more else 0) and facts["model"]["language_format"] == "int8"
    assert (facts["new_kinds"]["count"] > 0) == bool(more)
    assert "use_untrained" in capsys.readouterr().out


@pytest.mark.slow
def test_several_processes_ask_what_one_asks(tmp_path: Path, folder: Path) -> None:
    try:
        find_assets()
    except AssetsError as error:
        pytest.skip(str(error))
    asked = []
    for workers in ("1", "2"):
        said = tmp_path / f"answers_{workers}.jsonl"
        assert evaluate.main(["household", "--model", str(folder), "--scenes", "3", "--device", "cpu", "--reference",
                              "--workers", workers, "--answers", str(said)]) == 0
        asked.append([json.loads(line) for line in said.read_text(encoding="utf-8").splitlines()])
    one, two = asked
    questions = [[(line["scene"], line["question"], line["expected"]) for line in lines] for lines in asked]
    assert questions[0] == questions[1]
    # Another number of threads adds in another order, which may turn a word of a random model.
    assert sum(a["said"] == b["said"] for a, b in zip(one, two)) > 0.9 * len(one) > 0


def test_what_cannot_be_asked_is_said_before_anything_is_done(tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["household", "--model", "x", "--jitter", "0.5"]) == 1
    assert "--jitter 0.5: expected 0 to 0.4" in capsys.readouterr().err
    assert evaluate.main(["household", "--model", "x", "--jitter", "0.1", "--regions", "masks"]) == 1
    assert "--jitter 0.1 moves boxes, expected --regions boxes and not masks" in capsys.readouterr().err
    for option in ("--json", "--answers"):
        assert evaluate.main(["household", "--model", "x", option, str(tmp_path)]) == 1
        assert f"{tmp_path}: no file that can be written" in capsys.readouterr().err
    assert evaluate.main(["household", "--model", "x", "--workers", "0"]) == 1
    assert "--workers 0: expected at least 1" in capsys.readouterr().err
    assert evaluate.main(["household", "--model", str(tmp_path / "none"), "--scenes", "1"]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_a_process_that_dies_is_told_and_there_are_no_more_than_scenes(monkeypatch: pytest.MonkeyPatch,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    def dies(workers: int, context: object) -> ProcessPoolExecutor:
        assert workers == 3
        raise BrokenProcessPool

    monkeypatch.setattr(household, "open_pipeline", lambda options: None)
    monkeypatch.setattr(household, "ProcessPoolExecutor", dies)
    assert evaluate.main(["household", "--model", "x", "--scenes", "3", "--workers", "1000"]) == 1
    assert "error: --workers 3: a process died" in capsys.readouterr().err
