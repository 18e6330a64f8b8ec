"""Every benchmark on fixture files in its true format, the report, and the whole command on the tabletop."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import training_fixtures as fixtures

from ros_gpt4roi.model.checkpoint import build_model, read_config, save_checkpoint
from ros_gpt4roi.model.config import LanguageConfig
from ros_gpt4roi.paths import find_model
from training.data.record import RecordError, references
from training.evaluate import main
from training.evaluation.base import Benchmark, run
from training.evaluation.errors import EvaluationError
from training.evaluation.public import EvaluationConfig
from training.evaluation.registry import BENCHMARKS, open_benchmark
from training.evaluation.report import load_published, write_report
from training.from_scratch.tokenizer import train_tokenizer
from training.objective import Conversation


def truthful(records):
    return [record.rounds[-1].answer for record in records]


def silent(records):
    return [""] * len(records)


def benchmark(kind: str, values: dict, folder, **more) -> Benchmark:
    values = {name: values[name] for name in ("annotations", "images")}
    return open_benchmark({"type": kind, **values, **more}, "test")


def visual7w(folder):
    fixtures.image(folder / "images" / "v7w_1.jpg")
    content = {
        "dataset": "v7w", "images": [{
            "filename": "v7w_1.jpg", "image_id": 1, "split": "test", "qa_pairs": [
                {"qa_id": number, "image_id": 1, "type": "which", "question": "Which is the dog?", "answer": 10,
                 "multiple_choices": [11, 12, 13]} for number in range(12)],
        }, {"filename": "absent.jpg", "image_id": 2, "split": "train", "qa_pairs": []}],
        "boxes": [{"box_id": 10 + n, "name": "dog", "x": 5 + 20 * n, "y": 5, "width": 15, "height": 30}
                  for n in range(4)],
    }
    return {"annotations": fixtures.write(folder / "dataset_v7w_pointing.json", content), "images": folder / "images"}


def pope(folder):
    fixtures.image(folder / "val2014" / "COCO_val2014_000000310196.jpg")
    lines = [{"question_id": n, "image": "COCO_val2014_000000310196.jpg", "text": f"Is there a {name} in the image?",
              "label": label} for n, (name, label) in enumerate([("dog", "yes"), ("cat", "no"), ("owl", "no")], 1)]
    path = folder / "coco_pope_random.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"annotations": path, "images": folder / "val2014"}


def osprey(folder):
    fixtures.image(folder / "val2017" / "000000000001.jpg")
    content = [{"file_name": "000000000001.jpg", "height": 80, "width": 100, "categories": ["bow_(weapon)", "can:lid"],
                "annotations": [{"bbox": [10, 10, 20, 30]}, {"segmentation": [[40, 20, 60, 20, 60, 50, 40, 50]]}]}]
    return {"annotations": fixtures.write(folder / "lvis_val_1k_category.json", content), "images": folder / "val2017"}


def lvis(folder):
    values = fixtures.coco(folder)
    content = json.loads(values["annotations"].read_text())
    for image in content["images"]:
        image["coco_url"] = "http://images.cocodataset.org/train2017/" + image.pop("file_name")
    return {"annotations": fixtures.write(folder / "lvis_v1_val.json", content), "images": values["images"]}


def cases(folder):
    cache = {"cache": folder / "cache"}
    return {
        "vg_captioning": benchmark("vg_captioning", fixtures.visual_genome(folder / "vg"), folder, **cache),
        "refcocog_captioning": benchmark("refcocog_captioning", fixtures.refcoco(folder / "r"), folder, **cache),
        "vcr": benchmark("vcr", fixtures.vcr(folder / "vcr", "answer"), folder, **cache),
        "visual7w": benchmark("visual7w", visual7w(folder / "v7w"), folder),
        "lvis": benchmark("naming", lvis(folder / "lvis"), folder),
        "osprey": benchmark("naming", osprey(folder / "osprey"), folder),
        "coco_classification": benchmark("coco_classification", fixtures.coco(folder / "coco"), folder, **cache),
        "coco_presence": benchmark("coco_presence", fixtures.coco(folder / "coco"), folder, **cache),
        "pope": benchmark("pope", pope(folder / "pope"), folder),
        "grounding": benchmark("grounding", fixtures.refcoco(folder / "r"), folder, **cache),
    }


BEST = {
    "refcocog_captioning": {"items": 2, "ROUGE-L": 100},
    "vcr": {"items": 4, "Q→A": 100, "QA→R": 100, "Q→AR": 100}, "visual7w": {"items": 12, "accuracy": 100},
    "lvis": {"items": 3, "semantic IoU": 100}, "osprey": {"items": 2, "semantic IoU": 100},
    "coco_classification": {"items": 3, "accuracy": 100, "mean class accuracy": 100},
    "coco_presence": {"items": 2, "accuracy": 100, "hallucination rate": 0},
    "pope": {"items": 3, "accuracy": 100, "hallucination rate": 0}, "grounding": {"items": 4, "accuracy": 100},
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return cases(tmp_path_factory.mktemp("benchmarks"))


@pytest.mark.parametrize("kind", BEST)
def test_the_truth_scores_best_and_silence_worst(suite, kind):
    best, worst = run(suite[kind], truthful), run(suite[kind], silent)
    for metric, value in BEST[kind].items():
        assert best.metrics[metric] == pytest.approx(value), metric
    assert {case.score for case in worst.cases} == {0}
    assert len(best.cases) == best.metrics["items"]


def test_visual_genome_regions_are_asked_one_by_one(suite):
    items = list(suite["vg_captioning"].items())
    assert [(item.record.boxes.tolist(), item.references) for item in items] == [
        ([[10, 5, 40, 35]], ("a clock on the wall",)), ([[60, 0, 80, 70]], ("street lamp",))]
    assert all(references(item.record.rounds[0].question) == [1] for item in items)
    assert run(suite["vg_captioning"], truthful).metrics["ROUGE-L"] == pytest.approx(100)


def test_all_expressions_of_an_object_are_references(suite):
    found = {item.references for item in suite["refcocog_captioning"].items()}
    assert found == {("the lady with the blue shirt", "woman in blue on the left"), ("man in the middle", "left guy")}


def test_q_ar_counts_questions_with_both_right(suite):
    # Answers: right, right. Rationales: right, wrong.
    metrics = run(suite["vcr"], lambda records: ["(C)", "(A)", "(C)", "(B)"]).metrics
    assert (metrics["Q→A"], metrics["QA→R"], metrics["Q→AR"]) == (100, 50, 50)
    metrics = run(suite["vcr"], lambda records: ["(C)", "(A)", "(C)"], limit=3).metrics
    assert (metrics["Q→A"], metrics["QA→R"], metrics["Q→AR"]) == (100, 100, 100), "a cut pair has no rationale"


def test_visual7w_answers_stand_at_every_letter_and_at_the_right_box(suite):
    items = list(suite["visual7w"].items())
    assert {item.references[0] for item in items} == {"(A)", "(B)", "(C)", "(D)"}
    for item in items:
        place = "ABCD".index(item.references[0][1])
        assert item.record.boxes[place].tolist() == [5, 5, 20, 35]


def test_masks_without_boxes_are_bounded(suite):
    first, second = suite["osprey"].items()
    assert first.record.boxes.tolist() == [[10, 10, 30, 40]] and first.references == ("bow (weapon)",)
    np.testing.assert_allclose(second.record.boxes, [[40, 20, 60, 50]], atol=1)
    assert second.references == ("can lid",)


def test_presence_asks_for_as_much_that_is_absent_as_is_present(tmp_path):
    names = [{"id": n, "name": f"class{n}"} for n in range(6)]
    for number in range(4):
        fixtures.image(tmp_path / "train2017" / f"{number}.jpg")
    # Classes 0 and 1 come together; 4 is seen most where 0 and 1 are not.
    shown = {0: [0, 1], 1: [0, 1, 2], 2: [4, 3], 3: [4]}
    values = fixtures.coco(
        tmp_path, categories=names,
        images=[{"id": n, "file_name": f"{n}.jpg", "height": 80, "width": 100} for n in shown],
        annotations=[{"id": 10 * n + c, "image_id": n, "category_id": c, "bbox": [1, 1, 40, 40], "area": 9}
                     for n, labels in shown.items() for c in labels],
    )
    asked = {}
    for sampling in ("random", "popular", "adversarial"):
        suite = benchmark("coco_presence", values, tmp_path, cache=tmp_path / "c", sampling=sampling)
        items = list(suite.items())
        labels = [item.references[0] for item in items]
        assert labels.count("yes") == labels.count("no") == 8
        asked[sampling] = [re.search(r"class\d", item.record.rounds[0].question).group() for item in items]
        for item, name in zip(items, asked[sampling], strict=True):
            number = int(re.search(r"(\d)\.jpg", item.record.source).group(1))
            assert (int(name[-1]) in shown[number]) == (item.references[0] == "yes")
    assert asked["popular"][2] == "class4", "class 4 is shown most often of those that image 0 lacks"
    assert asked["adversarial"][2] == "class2", "class 2 was seen together with 0 and 1"


def test_pope_lines_are_checked(tmp_path):
    values = pope(tmp_path)
    values["annotations"].write_text(values["annotations"].read_text().replace('"no"', '"nope"'))
    with pytest.raises(RecordError, match="coco_pope_random.json:2"):
        run(benchmark("pope", values, tmp_path), truthful)


@pytest.mark.parametrize(("values", "words"), [
    ({"type": "imagenet"}, "expected one of vg_captioning"),
    ({"type": "pope", "images": "x"}, "annotations is missing"),
    ({"type": "tabletop_yes_no", "scene": 3}, "scene is unknown, did you mean scenes?"),
])
def test_a_wrong_entry_is_explained(values, words):
    with pytest.raises(EvaluationError, match=words):
        open_benchmark(values, "file.yaml: benchmarks[0]")


def test_published_figures_belong_to_benchmarks_and_metrics_that_exist(suite):
    metrics = {result.name: result.metrics for result in (run(case, silent) for case in suite.values())}
    for name, models in load_published().items():
        assert name in metrics
        for figures in models.values():
            assert set(figures) <= set(metrics[name])


def test_the_report_shows_the_worst_cases_with_their_pictures(suite, tmp_path):
    results = [run(suite[kind], lambda records: ["a clock <b>" for _ in records]) for kind in ("vg_captioning", "pope")]
    text = write_report(results, tmp_path, {"model": "m & n"}, worst=2)
    assert "CIDEr-D" in text and "145.2" in text and "GPT4RoI-7B tuned" in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    assert "m &amp; n" in page and "a clock &lt;b&gt;" in page and "<b>" not in page
    facts = json.loads((tmp_path / "report.json").read_text())
    assert [result["name"] for result in facts["results"]] == ["vg_captioning", "pope"]
    assert facts["results"][0]["metrics"]["METEOR"] is None and len(facts["results"][1]["cases"]) == 3


def test_models_are_asked_as_they_are_trained_by_default():
    assert EvaluationConfig(benchmarks=()).list_regions == Conversation().list_regions


def test_a_benchmark_without_items_is_an_error(suite):
    with pytest.raises(ValueError, match="no items"):
        run(suite["pope"], truthful, limit=0)


def untrained_model(folder):
    config = read_config(find_model("tabletop"))
    tokenizer = train_tokenizer(iter(["What is the red mug?", "The region is left of it, yes."]), 300,
                                config.prompt.template)
    language = {**config.language.model, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    loaded = build_model(dataclasses.replace(config, language=LanguageConfig(language)), tokenizer)
    save_checkpoint(loaded.model, loaded.tokenizer, folder)
    return folder


@pytest.mark.slow
def test_every_kind_of_benchmark_runs_on_the_tabletop(tmp_path):
    """A model that has learned nothing goes through the command, from rendered scenes to the page."""
    names = [name for name in BENCHMARKS if name.startswith("tabletop")]
    suite = {"list_regions": True, "benchmarks": [{"type": name, "scenes": 2} for name in names]}
    (tmp_path / "suite.yaml").write_text(json.dumps(suite))
    arguments = ["benchmarks", "--model", untrained_model(tmp_path / "model"), "--config", tmp_path / "suite.yaml",
                 "--out", tmp_path / "out", "--limit", 4, "--max-new-tokens", 3]
    assert main([str(argument) for argument in arguments]) == 0
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {result["name"] for result in facts["results"]} == set(names)
    assert "data:image/jpeg" in (tmp_path / "out" / "report.html").read_text()


def test_a_bad_picture_costs_its_own_questions(tmp_path, capsys):
    """Three pictures, one of them broken, and a line that is no question: the command counts both and goes on."""
    lines = [{"image": f"{name}.jpg", "text": f"Is there a {thing} in the image?", "label": "no"}
             for name in ("good", "broken", "fine") for thing in ("dog", "cat")]
    for name in ("good", "fine"):
        fixtures.image(tmp_path / f"{name}.jpg")
    (tmp_path / "broken.jpg").write_bytes(fixtures.BROKEN_PICTURES["broken pixels"])
    (tmp_path / "pope.json").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"image": "good.jpg"}]))

    def evaluate(limit):
        values = {"type": "pope", "annotations": str(tmp_path / "pope.json"), "images": str(tmp_path)}
        (tmp_path / "suite.yaml").write_text(json.dumps({"malformed_limit": limit, "benchmarks": [values]}))
        return main(["benchmarks", "--model", str(model), "--config", str(tmp_path / "suite.yaml"), "--out",
                     str(tmp_path / "out"), "--max-new-tokens", "2", "--reference", "--device", "cpu"])

    model = untrained_model(tmp_path / "model")
    assert evaluate(2) == 0
    (result,) = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    assert result["metrics"]["items"] == len(result["cases"]) == 4
    assert {case["source"].rpartition("/")[2] for case in result["cases"]} == {"good.jpg", "fine.jpg"}
    assert result["malformed"] == 2
    assert "pope.json:7: has no 'label'" in result["errors"][0] and "broken.jpg" in result["errors"][1]
    for name in ("report.txt", "report.html"):
        page = (tmp_path / "out" / name).read_text()
        assert "left out as malformed: 2" in page and "broken.jpg" in page
    assert evaluate(1) == 1
    assert "more than 1 malformed items" in (told := capsys.readouterr().err) and "broken.jpg" in told


def test_a_picture_that_is_gone_before_the_report_costs_only_itself(tmp_path):
    benchmark = open_benchmark({"type": "pope", **pope(tmp_path / "pope")}, "test")
    result = run(benchmark, silent)
    (tmp_path / "pope" / "val2014" / "COCO_val2014_000000310196.jpg").unlink()
    write_report([result], tmp_path, {})
    assert "000000310196.jpg: cannot be read as an image" in (tmp_path / "report.html").read_text()


def test_the_tabletops_truth_is_right_by_every_score():
    for name in BENCHMARKS:
        if name.startswith("tabletop"):
            result = run(open_benchmark({"type": name, "scenes": 2}, "test"), truthful)
            assert result.metrics["items"] >= 4
            assert min(case.score for case in result.cases) == pytest.approx(1), name
