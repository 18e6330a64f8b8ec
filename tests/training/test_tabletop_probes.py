"""Probes that are written can be read, and ask for the kind and the colour of every object."""
from __future__ import annotations

from pathlib import Path

from ros_gpt4roi.runtime.probes import read_probes
from ros_gpt4roi.sim.tabletop.scene import COLOURS, KINDS
from training.evaluation.tabletop_probes import write_probes


def test_kind_and_colour_of_every_object_are_asked_for(tmp_path: Path) -> None:
    write_probes(tmp_path / "probes", 1)
    probes = read_probes(tmp_path)
    assert len(probes) == 2 * len(probes[0].frame.regions) > 0
    for place, (kind, colour) in enumerate(zip(probes[::2], probes[1::2]), 1):
        assert kind.answers[0] in KINDS and colour.answers[0] in COLOURS
        assert f"region {place}" in kind.text and f"region {place}" in colour.text
