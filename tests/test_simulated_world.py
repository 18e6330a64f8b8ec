"""The world of the simulated robot where none is named: the household, or what takes its place and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from ros_gpt4roi import simulated_world as module
from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.simulated_world import main, simulated_world


def missing(error: Exception) -> Path:
    raise error


def test_the_household_needs_its_things_and_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_assets", lambda: tmp_path)
    assert simulated_world(str(tmp_path)) == ("household", "")
    world, why = simulated_world(str(tmp_path / "none"))
    assert world == "tabletop" and f"model is '{tmp_path}/none'" in why
    monkeypatch.setattr(module, "find_model", lambda name: missing(ConfigError(f"{name} was never completed")))
    assert simulated_world() == ("tabletop", "household was never completed")
    monkeypatch.setattr(module, "find_assets", lambda: missing(AssetsError("no things")))
    assert simulated_world(str(tmp_path)) == ("tabletop", "no things")


@pytest.mark.parametrize(("name", "why"), [("~no-such-user/model", "home directory"), ("x" * 5000, "too long")])
def test_a_name_that_can_be_no_folder_is_no_model(monkeypatch: pytest.MonkeyPatch, name: str, why: str) -> None:
    monkeypatch.setattr(module, "find_assets", Path)
    world, told = simulated_world(name)
    assert world == "tabletop" and told.startswith(f"model is '{name}'; expected a folder") and why in told


def test_the_program_prints_the_world_and_below_it_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "find_assets", lambda: tmp_path)
    assert main(["--model", str(tmp_path)]) == 0 and capsys.readouterr().out == "household\n\n"
    monkeypatch.setattr(module, "find_assets", lambda: missing(AssetsError("no things")))
    assert main([]) == 0 and capsys.readouterr().out == "tabletop\nno things\n"
