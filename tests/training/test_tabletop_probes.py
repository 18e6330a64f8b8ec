"""Probes that are written can be read, and ask for the kind and the colour of every object."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ros_gpt4roi.runtime.probes import read_probes
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.sim.tabletop.scene import COLOURS, KINDS
from training.evaluation import household_probes, probes
from training.evaluation.tabletop_probes import main, write_probes


def test_kind_and_colour_of_every_object_are_asked_for(tmp_path: Path) -> None:
    write_probes(tmp_path / "probes", 1)
    read = read_probes(tmp_path)
    assert len(read) == 2 * len(read[0].frame.regions) > 0
    for place, (kind, colour) in enumerate(zip(read[::2], read[1::2]), 1):
        assert kind.answers[0] in KINDS and colour.answers[0] in COLOURS
        assert f"region {place}" in kind.text and f"region {place}" in colour.text


def pictures(count: int) -> Iterator[probes.Picture]:
    for _ in range(count):
        yield np.zeros((32, 32, 3), np.uint8), [[0, 0, 9, 9]], [("What is region 1?", ["a mug"])]


def test_what_else_is_in_the_folder_stays_and_earlier_probes_do_until_there_are_new_ones(tmp_path: Path) -> None:
    def fails() -> Iterator[probes.Picture]:
        yield from pictures(1)
        raise AssetsError("no things")

    folder, kept = tmp_path / "probes", tmp_path / "probes" / "model.safetensors"
    assert probes.write_probes(folder, pictures(2)) == 2
    kept.touch()
    with pytest.raises(AssetsError):
        probes.write_probes(folder, fails())
    assert len(read_probes(tmp_path)) == 2
    assert probes.write_probes(folder, pictures(1)) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["0.jpg", "model.safetensors", "probes.json"]


def test_the_commands_tell_what_prevents_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    def renderer() -> None:
        raise AssetsError("no things")

    monkeypatch.setattr(household_probes, "HouseholdRenderer", renderer)
    assert household_probes.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: no things\n"
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path), "--scenes", "0"])
    assert "--scenes 0: expected at least 1" in capsys.readouterr().err
