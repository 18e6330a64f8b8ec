"""What the demonstration asks in each world, and which world it shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace as Values

import pytest
import shown_worlds
from shown_worlds import SHOWS, questions_about, world_to_show

from ros_gpt4roi.sim.household.wordings import HIDDEN
from ros_gpt4roi.sim.worlds import RENDERERS


def described(number: int, x: float, text: str) -> Values:
    box = Values(center=Values(position=Values(x=x)))
    return Values(region=Values(id=str(number), bbox=box), text=text)


def test_every_world_is_shown() -> None:
    assert set(SHOWS) == set(RENDERERS)


@pytest.mark.parametrize("world", SHOWS)
def test_questions_are_about_what_was_seen(world: str) -> None:
    seen = [described(1, 300, "A red mug. It is on region 3."), described(2, 500, "A red mug."),
            described(3, 100, "A wooden tray. It stands upright."), described(4, 10, HIDDEN)]
    asked = dict(questions_about(seen, world))
    assert asked["About two"] == "Is region 3 left or right of region 2?"
    assert asked["About one region"].endswith(" is region 3?")
    assert asked["To be answered with a region"] == "Which region is the wooden tray?"
    assert list(asked.values())[-1] == "Why?"


def test_where_hardly_anything_is_told_all_is_asked_about() -> None:
    asked = dict(questions_about([described(1, 30, HIDDEN), described(2, 10, "A plate.")], "household"))
    assert asked["About two"] == "Is region 2 left or right of region 1?"


def test_the_tabletop_takes_the_place_of_a_household_that_is_not_there(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shown_worlds, "simulated_world", lambda model: ("tabletop", f"{model} is not there"))
    assert world_to_show("tabletop", None) == "tabletop" and not capsys.readouterr().out
    assert world_to_show("household", Path("mine")) == world_to_show("household", None) == "tabletop"
    assert capsys.readouterr().out.splitlines() == [f"The tabletop takes the household's place: {name} is not there"
                                                    for name in ("mine", "household")]
    monkeypatch.setattr(shown_worlds, "simulated_world", lambda model: ("household", ""))
    assert world_to_show("household", None) == "household" and not capsys.readouterr().out
