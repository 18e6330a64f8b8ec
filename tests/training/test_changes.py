"""A checkpoint whose model is changed before it is trained: what fits is kept, the rest is drawn and has to learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from recipe_fixtures import TUNE, weights, write_recipe

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.model.checkpoint import load_checkpoint, load_tokenizer, read_config
from training.changes import changed_config, changed_model, random_parts
from training.recipe import RecipeError, read_recipe
from training.train import train

CHANGES: dict[str, dict[str, Any]] = {
    "wider": {"regions": {"hidden": 32}},
    "lite": {"regions": {"kind": "roi_align_lite", "channels": 8}},
    "deformable": {"regions": {"kind": "deformable", "layers": 1, "heads": 4}},
    "one level": {"vision": {"levels": ["stage2"]}},
    "focal": {"focal": {"scale": 2.0, "size": 16}},
    "embeddings": {"regions": {"embeddings": 3}},
    "larger pictures": {"preprocess": {"image_size": 64}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_weights_that_fit_are_kept_and_the_others_reported(start, name):
    before, config = load_checkpoint(start), changed_config(read_config(start), CHANGES[name])
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(changed_model(before, config).model.state_dict())
    known, (first, second) = before.model.state_dict(), drawn
    kept = {key for key, value in first.items() if torch.equal(value, second[key])}
    random = {key.partition(".")[0] for key in first.keys() - kept if first[key].is_floating_point()}
    assert random <= random_parts(before.config, config, load_tokenizer(start)) <= random | {"regions", "focal"}
    assert all(torch.equal(first[key], known[key]) for key in known
               if key.partition(".")[0] in ("language", "projector", "vision"))
    assert bool(random) == (name in ("wider", "lite", "deformable", "one level"))


def test_another_extractor_keeps_the_fields_that_both_have(start):
    before = read_config(start).regions
    after = changed_config(read_config(start), CHANGES["deformable"]).regions
    assert (after.kind, after.layers, after.roi_size, after.hidden) == ("deformable", 1, before.roi_size, before.hidden)


def test_a_model_with_a_focal_crop_or_more_embeddings_begins_as_the_one_without(start):
    before = load_checkpoint(start)
    size = before.config.preprocess.image_size
    images, boxes = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8), torch.tensor([[[0.1, 0.2, 0.8, 0.7]]])
    with torch.inference_mode():
        known = before.model.encode(images, boxes).region_embeddings
        for name, copies in (("focal", 1), ("embeddings", 3)):
            model = changed_model(before, changed_config(before.config, CHANGES[name])).model.eval()
            found = model.encode(images, boxes).region_embeddings
            torch.testing.assert_close(found, known.expand(-1, -1, copies, -1))


@pytest.mark.parametrize("changes, message", [
    ({"regions": {"chanels": 8}}, "chanels is unknown"),
    ({"region": {"channels": 8}}, "region is unknown"),
    ({"regions": {"kind": "roi_pool"}}, "roi_pool"),
    ({"regions": 3}, "regions is 3"),
])
def test_what_cannot_be_changed_is_named(start, changes, message):
    with pytest.raises(ConfigError, match=message):
        changed_config(read_config(start), changes)


def test_a_changed_model_is_trained_and_what_was_drawn_has_to_learn(start, scenes, tmp_path):
    path = write_recipe(tmp_path, start, [TUNE], steps=1)
    facts = yaml.safe_load(path.read_text()) | {"changes": CHANGES["deformable"]}
    path.write_text(yaml.safe_dump(facts))
    (tmp_path / "scenes").symlink_to(scenes)
    final = train(read_recipe(path), tmp_path)
    assert read_config(final).regions.kind == "deformable"
    before, after = weights(start), weights(final)
    assert all(torch.equal(after[key], value) for key, value in before.items() if key.startswith("vision."))
    facts["stages"][0]["trainable"] = ["projector", "language"]
    path.write_text(yaml.safe_dump(facts))
    with pytest.raises(RecipeError, match="regions of the model it begins with has random weights"):
        train(read_recipe(path), tmp_path / "again")
    facts["model"] = {}
    path.write_text(yaml.safe_dump(facts))
    with pytest.raises(RecipeError, match="changes are of a checkpoint"):
        read_recipe(path)
