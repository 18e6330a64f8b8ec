"""Retraining by what people corrected: what is learned from, what is held against it, the folder that comes of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from recipe_fixtures import TUNE, losses, weights, write_recipe

from ros_gpt4roi.model.checkpoint import build_model, load_checkpoint
from ros_gpt4roi.model.config import LanguageConfig
from ros_gpt4roi.model_card import CARD_FILE, CardError, measured_loss
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.probes import read_probes
from ros_gpt4roi.runtime.types import Frame, Region
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from training.data.record_file import (
    FILE,
    Conversation,
    Judgement,
    PictureRecord,
    RecordWriter,
    RegionRecord,
    read_records,
)
from training.data.report import Report
from training.recipe import read_recipe
from training.retrain import main
from training.retraining.card import Case, known_phrase, make_card, read_cases, write_card
from training.retraining.corrections import find_corrections, key_phrase, split, taught, write_lessons
from training.retraining.plan import Effort
from training.retraining.vocabulary import new_words, with_words
from training.train import train

BOXES = (4, 4, 40, 40), (50, 10, 90, 60)


def corrected(right: str, *earlier: str, said: str = "a box", wrong: bool = True) -> RegionRecord:
    """A region that people corrected, the last word being `right`."""
    judgements = tuple(Judgement(said, text, True, "Ada", float(time)) for time, text in enumerate(earlier))
    return RegionRecord("1", BOXES[0], description=right or said, source="person", confidence=1.0,
                        judgements=(*judgements, Judgement(said, right, wrong, "Bob", 9.0)))


def write_data(folder: Path, pictures: int = 6, alone: int | None = None) -> Path:
    """Pictures with a corrected region and another one; the first has a contradiction, the last no right text.

    alone: a picture that has only the corrected one.
    """
    with RecordWriter(folder) as writer:
        for number in range(pictures):
            pixels = np.random.default_rng(number).integers(0, 255, (80, 100, 3), np.uint8)
            file = writer.add_picture(f"{number}.png", cv2.imencode(".png", pixels)[1].tobytes())
            region = dataclasses.replace(corrected("a red ring", *(["a red star"] if number == 0 else [])), name="ring")
            if number == pictures - 1:
                region = dataclasses.replace(corrected(""), description="a box")
            other = RegionRecord("2", BOXES[1], description="a mug", source="model")
            talk = Conversation((("What is left of <region 2>?", "<region 1>, a red ring."),), "person", 1.0)
            whole = PictureRecord(file, 100, 80, (region, other), (talk,))
            writer.write(PictureRecord(file, 100, 80, (region,)) if number == alone else whole)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("corrected") / "data")


def retrain(start: Path, data: Path, out: Path, *options: str) -> int:
    return main(["--model", str(start), "--data", str(data), "--out", str(out), "--batch", "2", "--epochs", "2",
                 "--replay", "1", *options])


@pytest.mark.slow
def test_a_model_that_is_retrained_is_one_that_a_robot_loads(start, data, tmp_path, capsys):
    assert retrain(start, data, tmp_path / "out", "--quantise", "int8") == 0
    shown = capsys.readouterr().out
    assert "5 regions and 6 conversations with a text of a person's, in 6 pictures" in shown
    assert "1 texts with contradicting corrections: the newest one decides" in shown
    assert "1 texts that are called wrong" in shown
    assert shown.index("Cost: at most 10 steps, ") < shown.index("corrections that were held out")
    before, after = weights(start), weights(tmp_path / "out")
    changed = {key.partition(".")[0] for key in after if not torch.equal(before[key].half(), after[key].half())}
    assert changed == {"language", "regions"}
    assert (tmp_path / "out" / "report.html").is_file() and list((tmp_path / "out").glob("*int8*"))
    card = json.loads((tmp_path / "out" / CARD_FILE).read_text())
    assert card["new"]["count"] == 1 and card["after"].startswith("out@") and card["corrections"]["contradictions"] == 1
    probes = read_probes(tmp_path / "out")
    assert any(probe.answers == ("ring",) for probe in probes)
    # Its own answers are what it is not to forget, since nothing says what it was trained on.
    replay = list(read_records(tmp_path / "out" / "run" / "replay" / FILE, Report(0)))
    assert {region.source for record in replay for region in record.regions} == {"model"}
    assert not any(region.name for record in replay for region in record.regions)  # of what was taught
    assert retrain(start, data, tmp_path / "out", "--quantise", "int8") == 0  # done already
    assert "Cost" not in capsys.readouterr().out
    assert retrain(start, data, tmp_path / "out", "--seed", "1") == 1
    assert "is of another retraining" in capsys.readouterr().err
    # What was retrained once is retrained again on top of what it was taught.
    other = write_data(tmp_path / "more", 3)
    assert retrain(tmp_path / "out", other, tmp_path / "again") == 0
    sources = read_recipe(tmp_path / "again" / "run" / "recipe.yaml").train["sources"]
    assert [Path(source["annotations"]).parent.name for source in sources] == ["lessons", "lessons", "replay"]


@pytest.mark.slow
def test_an_adapter_is_what_was_learned_beside_the_model(start, tmp_path, capsys):
    # Nothing of the picture that is held out could be forgotten.
    held_out = np.random.default_rng(0).permutation(6)[0]
    data = write_data(tmp_path / "data", alone=held_out)
    assert retrain(start, data, tmp_path / "out", "--result", "adapter", "--quantise", "int8") == 1
    assert "--quantise stores a model's language model, but an adapter is the result" in capsys.readouterr().err
    assert retrain(start, data, tmp_path / "out", "--result", "adapter") == 0
    assert not (tmp_path / "out" / "run" / "replay_held_out" / FILE).read_text()
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"adapter_config.json", "adapter_model.safetensors", "card.json", "report.html", "recipe.yaml"}
    assert "model.safetensors" not in written and "config.json" not in written
    card = json.loads((tmp_path / "out" / CARD_FILE).read_text())
    assert card["after"].startswith(card["before"] + "+out@")
    run = tmp_path / "out" / "run"
    merged, before = weights(run / "retrain" / "final"), weights(start)
    changed = {key for key in merged if not torch.equal(before[key], merged[key])}
    assert changed and all(key.startswith("language.") and key.endswith("_proj.weight") for key in changed)
    # Beside the model it says what the merged model says.
    settings = PipelineConfig(language_format="fp32", vision=VisionOptions("torch"), description_tokens=12)
    adapted = Pipeline.open(start, dataclasses.replace(settings, adapters=(tmp_path / "out",), adapter="out"))
    whole = Pipeline.open(run / "retrain" / "final", settings)
    pixels = np.random.default_rng(1).integers(0, 255, (80, 100, 3), np.uint8)
    frame = Frame(pixels, tuple(Region(str(i), box) for i, box in enumerate(BOXES, 1)), 0, "camera")
    texts = [[d.text for d in pipeline.describe(frame).descriptions] for pipeline in (adapted, whole)]
    assert texts[0] == texts[1]
    assert retrain(tmp_path / "out", data, tmp_path / "again") == 1
    assert "an adapter, expected the model that it is for" in capsys.readouterr().err


def test_without_enough_corrections_it_says_what_is_missing(start, tmp_path, capsys):
    data = write_data(tmp_path / "data", 2)
    records = (data / FILE).read_text().splitlines()
    (data / FILE).write_text(records[0] + "\n")
    assert retrain(start, data, tmp_path / "out") == 1
    assert "1 pictures with a text of a person's, expected two or more" in capsys.readouterr().err
    assert retrain(start, tmp_path / "nowhere", tmp_path / "out") == 1
    assert "records.jsonl: No such file or directory, expected a folder of one's own" in capsys.readouterr().err


def test_only_what_can_be_learned_is_counted_and_held_out(tmp_path):
    """What is wrong with a picture is told before the training, not behind it."""
    data = write_data(tmp_path / "data")
    region = corrected("a red ring")
    jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8))[1].tobytes()
    bad = [dataclasses.replace(region, id="outside", box=(200, 10, 240, 40)),
           dataclasses.replace(region, id="empty", box=(20, 20, 20, 20)),
           dataclasses.replace(region, id="tiny", box=(20, 20, 20.5, 40)),
           dataclasses.replace(region, id="marker", description="a <bbox>"),
           dataclasses.replace(region, id="mask", mask=[[1.0, 1.0, 500.0, 1.0, 1.0, 9.0]])]
    talk = Conversation((("What is <region gone>?", "a ring"),), "person", 1.0)
    with RecordWriter(tmp_path / "more") as writer:
        writer.write(PictureRecord(writer.add_picture("cut.jpg", jpeg[:len(jpeg) // 2]), 100, 80, (region,)))
        writer.write(PictureRecord(writer.add_picture("size.jpg", jpeg), 80, 100, (region,)))
        writer.write(PictureRecord("images/gone.jpg", 100, 80, (region,)))
        writer.write(PictureRecord(writer.add_picture("good.jpg", jpeg), 100, 80, (region, *bad), (talk,)))
        writer.write(PictureRecord("images/good.jpg", 100, 80, tuple(bad)))
    found = find_corrections([data, tmp_path / "more"], report := Report(100))
    assert (found.regions, found.conversations, len(found.pictures), len(found.others)) == (6, 6, 7, 1)
    assert found.pictures[-1][1].regions == (region,) and not found.pictures[-1][1].conversations
    assert report.malformed == 8 and report.filtered == {"box outside the image": 2, "box under 1 pixel": 4}
    assert any("cut.jpg: cannot be read as an image" in error for error in report.errors)


def test_a_text_that_the_model_cannot_read_costs_only_itself(start, tmp_path):
    data = write_data(tmp_path / "data")
    with RecordWriter(tmp_path / "long") as writer:
        writer.add_picture("0.png", (data / "images" / "0.png").read_bytes())
        talk = Conversation((("What is <region 1>?", "a ring. " * 500),), "person", 1.0)
        writer.write(PictureRecord("images/0.png", 100, 80, (corrected("a ring " * 500),)))
        writer.write(PictureRecord("images/0.png", 100, 80, (corrected("a ring"),), (talk,)))
    found = find_corrections([data, tmp_path / "long"], report := Report(9), load_checkpoint(start).prompts)
    assert (found.regions, found.conversations, report.malformed) == (6, 6, 2)
    assert all("tokens, expected at most 512, half of the model's prompt.context" in error for error in report.errors)


def test_corrections_that_speak_of_other_regions_name_them_whatever_their_places(data, tmp_path):
    folder, record = find_corrections([data], Report(0)).pictures[0]
    regions = dataclasses.replace(record.regions[0], description="a red ring left of region 2"), record.regions[1]
    write_lessons([(folder, dataclasses.replace(record, regions=regions))], tmp_path / "out", "Describe {region}.")
    (lesson,) = read_records(tmp_path / "out" / FILE, Report(0))
    assert lesson.conversations[0].rounds == (("Describe <region 1>.", "a red ring left of <region 2>"),)


def test_the_card_goes_on_behind_records_and_pictures_that_are_damaged(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    file = tmp_path / "data" / "mine.jsonl"
    (tmp_path / "data" / FILE).rename(file)
    file.write_text("{\n" + file.read_text())
    (tmp_path / "data" / "images" / "0.png").unlink()
    cases = read_cases([file], known_phrase, 3)
    assert [path.name for path, _ in cases] == ["1.png", "2.png", "3.png"]


@pytest.mark.parametrize("room", [0, 50])  # rows that no token has
def test_a_word_that_was_spelt_becomes_one_token_that_begins_like_those_it_replaces(start, data, room):
    loaded = load_checkpoint(start)
    if room:
        fields = loaded.config.language.model
        loaded = build_model(dataclasses.replace(loaded.config, language=LanguageConfig(
            {**fields, "vocab_size": len(loaded.tokenizer) + room})), loaded.tokenizer)
    records = [record for _, record in find_corrections([data], Report(0)).pictures]
    words = new_words(records, loaded)
    assert "ring" in words and "a" not in words and set(words["ring"]) == {"box"}
    known = loaded.model.language.get_input_embeddings().weight.detach().clone()[:len(loaded.tokenizer)]
    box = loaded.tokenizer.encode(" box", add_special_tokens=False)
    extended = with_words(loaded, words)
    pieces = extended.tokenizer.encode("a red ring. A string of rings", add_special_tokens=False)
    ring = extended.tokenizer.convert_tokens_to_ids("ring")
    assert pieces.count(ring) == 1 and extended.tokenizer.decode(pieces) == "a red ring. A string of rings"
    rows = extended.model.language.get_input_embeddings().weight.detach()
    assert len(rows) >= len(extended.tokenizer) and torch.equal(rows[:len(known)], known)
    assert torch.allclose(rows[ring], known[box[0]] if len(box) == 1 else known.mean(0), atol=1e-6)


@pytest.mark.parametrize("region, phrase", [
    (corrected("A small red ring.", said="A small red bowl."), "ring"),
    (corrected("a blue star", said="A small red bowl."), "blue star"),
    (dataclasses.replace(corrected("a ring", said="A small red bowl."), name="ring"), "ring"),
    (corrected("", said="A small red bowl.", wrong=False), "small red bowl"),
    (dataclasses.replace(corrected("", said="A small red bowl.", wrong=False), name="object"), "small red bowl"),
    (RegionRecord("1", BOXES[0], name="Valve", source="person"), "valve")])
def test_a_right_text_contains_what_was_put_in_place_of_something_wrong(region, phrase):
    assert key_phrase(region) == phrase


def test_a_name_that_a_person_changed_alone_is_what_is_taught():
    region = dataclasses.replace(corrected("valve", said="object"), name="valve", description="A small red bowl.")
    assert (taught(region), key_phrase(region)) == ("valve", "valve")
    region = dataclasses.replace(region, description="A small red valve.")
    assert (taught(region), key_phrase(region)) == ("A small red valve.", "valve")


@pytest.mark.parametrize("region, phrase", [
    (RegionRecord("1", BOXES[0], name="bowl", description="A small red bowl."), "bowl"),
    (RegionRecord("1", BOXES[0], name="object", description="A small red bowl."), ""),
    (RegionRecord("1", BOXES[0], description="A small red bowl."), "A small red bowl."),
    (RegionRecord("1", BOXES[0], name="bowl"), "bowl")])
def test_what_was_known_is_measured_by_names_that_the_model_says(region, phrase):
    assert known_phrase(region) == phrase


def test_a_few_pictures_are_seen_more_often_than_many():
    usual = Effort(None, 4.0, 8, 1e-3)
    assert [usual.visits(count) / count for count in (2, 50, 100, 1000)] == [80, 80, 40, 5]
    assert Effort(3.0, 4.0, 8, 1e-3).visits(50) == 150


def test_pictures_are_held_out_by_the_seed(data):
    pictures = find_corrections([data], Report(0)).pictures
    learned, held = split(pictures, 0.2, 1)
    assert len(held) == 1 and {id(item) for item in (*learned, *held)} == {id(item) for item in pictures}
    assert split(pictures, 0.2, 1) == (learned, held) and len(split(pictures, 0.99, 1)[0]) == 1


def test_a_card_counts_by_name_and_lists_what_it_still_answers_otherwise(data, tmp_path):
    record = next(read_records(data / FILE, Report(0)))
    picture = data / record.file

    def case(phrase: str, before: str, after: str) -> Case:
        return Case(picture, record, record.regions[0], phrase, before, after)

    new = [case("ring", "a box", "A red Ring."), case("ring", "a ring", "a rings"), case("<star>", "", "a <star>")]
    card = make_card(("a@1", "b@2"), new, [case("mug", "a mug", "a box")], [], {"minutes": 1.5})
    assert card["new"] == {"count": 3, "before": 0.3333, "after": 0.6667}
    assert card["names"]["new"]["ring"] == {"count": 2, "before": 0.5, "after": 0.5}
    assert [doubt["said"] for doubt in card["doubtful"]] == ["a rings"] and card["doubtful"][0]["who"] == "Bob"
    write_card(tmp_path, card, new)
    report = (tmp_path / "report.html").read_text()
    assert "&lt;star&gt;" in report and "<star>" not in report and "data:image/jpeg" in report
    assert measured_loss(tmp_path) == 1.0


@pytest.mark.parametrize("card", ["[]", "{}", '{"old": {"before": "x", "after": 1}}', "{",
                                  '{"old": {"before": 1, "after": NaN}}', '{"old": {"before": 1, "after": 9}}',
                                  '{"old": {"before": 1, "after": 1' + "0" * 400 + "}}"])
def test_a_card_that_is_none_is_told(tmp_path, card):
    assert measured_loss(tmp_path) == 0
    (tmp_path / CARD_FILE).write_text(card)
    with pytest.raises(CardError, match="card.json"):
        measured_loss(tmp_path)


def test_a_stage_ends_when_it_gets_no_better_and_its_result_is_the_best(start, scenes, tmp_path):
    def run(name: str, steps: int, patience: int) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "scenes").symlink_to(scenes)
        stages = [{**TUNE, "patience": patience}]
        train(read_recipe(write_recipe(folder, start, stages, steps, learning_rate=3.0, eval_steps=1, save_steps=1,
                                       save_total_limit=12, lr_scheduler_type="constant", warmup_steps=0)), folder)
        return folder / "tune"

    patient = run("patient", 12, 2)
    validated = [entry["eval_loss"] for entry in json.loads((patient / "curve.json").read_text())
                 if "eval_loss" in entry]
    best = validated.index(min(validated)) + 1
    assert len(losses(patient)) == best + 2 < 12
    expected, found = weights(run("best", best, 0) / "final"), weights(patient / "final")
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    last = patient / f"checkpoint-{best + 1}"  # as if it had been interrupted behind the first that was no better
    shutil.copytree(last, tmp_path / "interrupted" / "tune" / last.name)
    assert len(losses(run("interrupted", 12, 2))) == best + 2
