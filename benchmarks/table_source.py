"""What the tables of the documents are made of: committed JSON files, and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def read(path: str) -> dict[str, Any]:
    """Return the content of a committed JSON file, by its place in the repository."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def percent(share: float | None) -> str:
    """Return a share as a percentage; nothing where it was not measured."""
    return "" if share is None else f"{100 * share:.1f}"


def markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
