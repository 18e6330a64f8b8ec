"""What configurations are read from, what they refuse, and how they say so."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ros_gpt4roi.configuration import ConfigError, Configuration, build, leaves, markdown_table, read_yaml, setting


@dataclass(frozen=True)
class Square(Configuration):
    kind: str = setting("square", "which shape", choices=("square",))
    side: float = setting(1.0, "length of a side", more_than=0, unit="metres")


@dataclass(frozen=True)
class Circle(Configuration):
    kind: str = setting("circle", "which shape", choices=("circle", "ellipse"))
    radii: tuple[float, float] = setting((1.0, 1.0), "half axes", at_least=0, at_most=9)


@dataclass(frozen=True)
class Drawing(Configuration):
    title: str = setting(dataclasses.MISSING, "what it is called")
    shape: Square | Circle = Square()
    others: tuple[Square | Circle, ...] = setting((), "more shapes")
    folders: tuple[Path, ...] = setting((), "where to look")
    output: Path | None = setting(None, "where it goes")
    levels: tuple[int | str, ...] = setting((), "places or names")
    count: int = setting(3, "how many", at_least=1)
    visible: bool = setting(True, "whether it is seen")
    extra: dict[str, Any] = setting({"a": 1}, "anything")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < len(self.others):
            raise ConfigError(f"others are {len(self.others)}, expected at most count={self.count}")


def test_values_become_the_fields_types() -> None:
    drawing = build(Drawing, {"title": "a", "shape": {"kind": "ellipse", "radii": [1, 2]}, "others": [{"side": 2}],
                              "folders": "here", "output": "~/there", "levels": ["stage1", -2], "extra": {"b": [1]}})
    assert drawing == Drawing("a", Circle("ellipse", (1.0, 2.0)), (Square(side=2.0),), (Path("here"),),
                              Path.home() / "there", ("stage1", -2), extra={"b": [1]})
    assert isinstance(drawing.others[0].side, float) and drawing.shape.kind == "ellipse"
    assert Drawing("a").extra == {"a": 1} and Drawing("a").extra is not Drawing("b").extra


@pytest.mark.parametrize("values, expected", [
    ({}, "title is missing"),
    ({"title": 3}, "title is 3, expected text"),
    ({"title": "a", "cuont": 3}, "cuont is unknown, did you mean count?; expected some of title, shape"),
    ({"title": "a", "count": 0}, "count is 0, expected a whole number, at least 1"),
    ({"title": "a", "count": 1.5}, "count is 1.5, expected a whole number"),
    ({"title": "a", "count": True}, "count is True, expected a whole number"),
    ({"title": "a", "visible": 1}, "visible is 1, expected true or false"),
    ({"title": "a", "shape": {"side": "x"}}, "shape.side is 'x', expected a number, more than 0 metres"),
    ({"title": "a", "shape": {"side": float("nan")}}, "shape.side is nan, expected a number"),
    ({"title": "a", "shape": {"side": 10 ** 400}}, "0, expected a number, more than 0 metres"),
    ({"title": "a", "shape": {"kind": "circle", "side": 1.0}}, "shape.side is unknown"),
    ({"title": "a", "shape": {"kind": "cube"}}, "shape.kind is 'cube', expected square, circle or ellipse"),
    ({"title": "a", "shape": {"kind": "circle", "radii": [1]}}, "shape.radii is [1], expected a list of 2"),
    ({"title": "a", "shape": {"kind": "circle", "radii": [1, 10]}}, "shape.radii[1] is 10, expected a number, 0 to 9"),
    ({"title": "a", "others": [{}, {"size": 1}]}, "others[1].size is unknown, did you mean side?"),
    ({"title": "a", "others": [{}, {}], "count": 1}, "others are 2, expected at most count=1"),
    ({"title": "a", "extra": 3}, "extra is 3, expected a mapping"),
    ([], "is [], expected a mapping of title"),
])
def test_what_does_not_suit_is_named_with_what_was_expected(values: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Drawing, values)
    assert expected in str(caught.value)


def test_values_from_python_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="side is -1, expected a number, more than 0 metres"):
        Square(side=-1)
    with pytest.raises(ConfigError, match="side is 0"):
        dataclasses.replace(Square(), side=0)


def test_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "drawing.yaml"
    path.write_text("title: a\nshape: {kind: circle}\n")
    assert read_yaml(Drawing, path) == Drawing("a", Circle())
    for text, expected in (("", "title is missing"), ("title: [", "drawing.yaml"), ("- a", "expected a mapping"),
                           ("title: a\nshape: 3", "shape is 3"), ("title: 2026-13-01", "month must be in 1..12")):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_yaml(Drawing, path)
        assert str(path) in str(caught.value) and expected in str(caught.value)
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        read_yaml(Drawing, tmp_path / "nowhere.yaml")


def test_a_function_is_called_with_checked_arguments() -> None:
    def draw(folder: Path, count: int = 1) -> tuple[Path, int]:
        return folder, count

    assert build(draw, {"folder": "here"}) == (Path("here"), 1)
    for values, expected in (({"folder": 3}, "folder is 3, expected a path"), ({}, "folder is missing"),
                             ({"folder": "x", "counts": 2}, "did you mean count?")):
        with pytest.raises(ConfigError) as caught:
            build(draw, values)
        assert expected in str(caught.value)


def test_a_table_has_a_row_for_every_field_of_the_tree() -> None:
    assert [item.name for item in leaves(Drawing)][:4] == ["title", "shape.kind", "shape.side", "others"]
    assert next(item for item in leaves(Drawing("a", Square(side=2))) if item.name == "shape.side").default == 2.0
    table = markdown_table(Drawing).splitlines()
    assert table[2] == "| `title` | required | text | what it is called |"
    assert table[4] == "| `shape.side` | `1.0` | a number, more than 0 metres | length of a side |"
    assert "| `output` | `null` | null or a path | where it goes |" in table
