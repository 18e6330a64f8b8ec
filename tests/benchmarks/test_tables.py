from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.table_source import markdown
from benchmarks.tables import TABLES, fill, headlines, main


def test_headlines_of_every_file_become_rows(tmp_path: Path) -> None:
    machine = {"cpu": "Some CPU", "threads": 2, "gpu": None}
    (tmp_path / "b.json").write_text(json.dumps({"machine": machine, "vs_published": 7.123, "parts": {"x": 1.0}}))
    (tmp_path / "a.json").write_text(json.dumps({"machine": {**machine, "gpu": "Some GPU"}, "count": 3, "ok": True}))
    assert headlines(tmp_path).splitlines()[2:] == ["| a | count | 3 | Some GPU |",
                                                    "| b | vs_published | 7.12 | Some CPU, 2 threads |"]


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="bad.json: expected a JSON object"):
        headlines(tmp_path)


def test_a_table_replaces_what_is_between_its_marks() -> None:
    before, after = "before\n<!-- table: tabletop -->\n", "<!-- end -->\nafter\n"
    assert fill(f"{before}old\n{after}") == before + TABLES["tabletop"]() + after
    assert fill("no marks") == "no marks"
    with pytest.raises(KeyError, match="unknown"):
        fill("<!-- table: unknown -->\n<!-- end -->")


@pytest.mark.parametrize("name", TABLES)
def test_committed_figures_fill_their_tables(name: str) -> None:
    head, rule, *rows = TABLES[name]().splitlines()
    assert rows and {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}


def test_the_documents_hold_every_table_as_the_files_say(root: Path, monkeypatch: pytest.MonkeyPatch,
                                                         tmp_path: Path) -> None:
    documents = [root / "README.md", *(root / "docs").glob("*.md")]
    shown = {name for path in documents for name in re.findall(r"<!-- table: (\w+) -->", path.read_text())}
    assert shown == set(TABLES)
    assert main(["--check"]) == 0
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("none here\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text("<!-- table: extractor_costs -->\n| made up |\n<!-- end -->\n")
    monkeypatch.setattr("benchmarks.tables.ROOT", tmp_path)
    assert main(["--check"]) == 1 and "made up" in page.read_text()
    assert main([]) == 0 and "made up" not in page.read_text()
    assert main(["--check"]) == 0


def test_a_table_is_markdown() -> None:
    assert markdown(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
