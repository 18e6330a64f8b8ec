from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.readme import TABLES, markdown
from benchmarks.readme_table import BEGIN, END, insert, table


def test_headlines_of_every_file_become_rows(tmp_path: Path) -> None:
    machine = {"cpu": "Some CPU", "threads": 2, "gpu": None}
    (tmp_path / "b.json").write_text(json.dumps({"machine": machine, "vs_published": 7.123, "parts": {"x": 1.0}}))
    (tmp_path / "a.json").write_text(json.dumps({"machine": {**machine, "gpu": "Some GPU"}, "count": 3, "ok": True}))
    assert table(tmp_path).splitlines()[2:] == ["| a | count | 3 | Some GPU |",
                                                "| b | vs_published | 7.12 | Some CPU, 2 threads |"]


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="bad.json: expected a JSON object"):
        table(tmp_path)


def test_the_table_replaces_what_is_between_the_marks() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert insert(text, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="expected the lines"):
        insert("no marks", "new")


@pytest.mark.parametrize("name", TABLES)
def test_committed_figures_fill_their_tables(name: str) -> None:
    head, rule, *rows = TABLES[name]().splitlines()
    assert len(rows) >= 3 and {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}


def test_a_table_is_markdown() -> None:
    assert markdown(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
