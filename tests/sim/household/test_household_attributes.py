"""What a thing looks like, as classes, is what is true of it; and nothing is known of what is hardly seen."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from household_texts import make_scene

from ros_gpt4roi.sim.household.attributes import ATTRIBUTES, attributes
from ros_gpt4roi.sim.household.sampler import is_clear


def test_every_attribute_is_that_of_the_object_and_every_class_of_state_occurs() -> None:
    seen: dict[str, set[str | None]] = defaultdict(set)
    for seed in range(200):
        scene = make_scene(seed)
        for item in scene.objects:
            found = attributes(scene, item)
            assert tuple(found) == tuple(ATTRIBUTES)
            assert all(value is None or value in ATTRIBUTES[name] for name, value in found.items())
            for name, value in found.items():
                seen[name].add(value)
            if not is_clear(scene, item):
                assert found.pop("seen") == "hidden" and set(found.values()) == {None}
                continue
            assert (found["kind"], found["material"], found["size"]) == (item.kind, item.facts.material, item.size)
            colours = [found[name] for name in ("colour", "second colour") if found[name] != "none"]
            assert colours == list(item.colours[:2])
            assert {part: found[part] for part in item.state.openings} == item.state.openings
    for name in ("seen", "size", "door", "top drawer"):
        assert set(ATTRIBUTES[name]) <= seen[name]
    assert {"standing", "lying", "leaning", None} <= seen["posture"]
    assert None not in seen["seen"]


def test_a_thing_that_is_nearly_hidden_has_no_other_attribute() -> None:
    scene = make_scene(0)
    item = next(item for item in scene.objects if is_clear(scene, item))
    assert attributes(scene, item)["kind"] == item.kind
    assert attributes(scene, replace(item, visible=0.1)) == {**dict.fromkeys(ATTRIBUTES), "seen": "hidden"}
