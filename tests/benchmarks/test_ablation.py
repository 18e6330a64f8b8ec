"""The ablation: variants are recipes, runs that are done are not repeated, and the figures are the runs'."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))
from recipe_fixtures import save_start  # noqa: E402

from benchmarks import ablation  # noqa: E402
from benchmarks.ablation import Ablation, main, recipe_of, summary  # noqa: E402
from ros_gpt4roi.configuration import read_yaml  # noqa: E402
from ros_gpt4roi.model.checkpoint import read_config  # noqa: E402
from ros_gpt4roi.paths import find_model  # noqa: E402
from training.train import check_start  # noqa: E402

COMPARED = read_yaml(Ablation, ablation.ROOT / "benchmarks" / "ablation.yaml")


@pytest.mark.parametrize("name", COMPARED.variants)
def test_every_variant_is_a_recipe_that_can_start_and_draws_what_looks_at_the_image_anew(name: str) -> None:
    variant = COMPARED.variant(name)
    if variant.trained_as:
        assert variant.trained_as in COMPARED.variants and variant.evaluation != ablation.Evaluation()
        variant = COMPARED.variant(variant.trained_as)
    base = {**COMPARED.base, "model": str(find_model("tabletop"))}
    config, untrained = check_start(recipe_of(base, variant, 0))
    assert "regions" in untrained and config.preprocess.image_size == 112


def test_mean_and_spread_are_those_of_the_seeds() -> None:
    def found(kind: float) -> dict:
        return {"right": {"kind": kind}, "questions": {"kind": 10}, "training_cpu_s": 2.0}

    figures = summary({"several": [found(0.2), found(0.4), found(0.6)], "one": [found(0.5)]})
    assert (figures["several"]["mean"], figures["several"]["spread"]) == ({"kind": 40.0}, {"kind": 20.0})
    assert (figures["one"]["seeds"], figures["one"]["mean"], figures["one"]["spread"]) == (1, {"kind": 50.0},
                                                                                          {"kind": None})


@pytest.mark.slow
def test_two_variants_are_trained_and_evaluated_to_the_end_and_only_once(tmp_path: Path, monkeypatch) -> None:
    start = save_start(tmp_path / "start")
    facts = {
        "scenes": 1, "tasks": ["kind", "colour"],
        "base": {
            "model": str(start), "changes": {"regions": {"hidden": 8}},
            "train": {"kind": "tabletop", "split": "train", "scenes": 4, "seed": 5},
            "validation": {"kind": "tabletop", "split": "validation", "scenes": 2, "seed": 5},
            "arguments": {"max_steps": 1, "per_device_train_batch_size": 2, "bf16": False, "save_strategy": "no",
                          "eval_strategy": "no", "report_to": "none", "disable_tqdm": True},
            "stages": [{"name": name, "objective": {"kind": "conversation"}, "trainable": ["regions", "language"]}
                       for name in ("stage1", "stage2")]},
        "variants": {
            "base": {}, "zeroed": {"trained_as": "base", "evaluation": {"zero_regions": True}},
            "masks": {"data": {"masks": 1}, "without": ["stage1"], "stages": {"stage2": {"max_steps": 2}},
                      "changes": {"regions": {"kind": "deformable", "hidden": 16, "heads": 4, "layers": 1}},
                      "evaluation": {"regions": "masks"}}}}
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(facts))
    command = ["--config", str(tmp_path / "ablation.yaml"), "--out", str(tmp_path / "runs"),
               "--json", str(tmp_path / "ablation.json"), "--seeds", "0", "1"]
    main(command)
    first = json.loads((tmp_path / "ablation.json").read_text())["variants"]
    assert {name: found["seeds"] for name, found in first.items()} == {"base": 2, "zeroed": 2, "masks": 2}
    for found in first.values():
        assert set(found["mean"]) == {"kind", "colour"} and all(0 <= value <= 100 for value in found["mean"].values())
    run = tmp_path / "runs" / "masks-1"
    assert not (run / "stage1").exists() and read_config(run / "stage2" / "final").regions.kind == "deformable"
    assert not (tmp_path / "runs" / "zeroed-0" / "stage2").exists()
    monkeypatch.setattr(ablation, "train", lambda *_: pytest.fail("trained again"))
    main(command)
    assert json.loads((tmp_path / "ablation.json").read_text())["variants"] == first
