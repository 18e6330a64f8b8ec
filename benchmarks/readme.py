"""Writes measured figures into the README:  python -m benchmarks.readme

Between `<!-- table: NAME -->` and `<!-- end -->` stands what TABLES[NAME] makes of committed JSON files, so that a
figure in the README is always one that was measured.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .readme_table import RESULTS, insert, table

ROOT = Path(__file__).resolve().parent.parent
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TASKS = ("kind", "colour", "size", "material", "relations", "counting", "comparing", "which_region", "yes_no", "why",
          "describe")


def read(path: str) -> dict[str, Any]:
    """A committed JSON file, by its place in the repository."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def tabletop() -> str:
    """Scores of the embedded model, with and without its region embeddings."""
    scores, hidden = read("models/tabletop/scores.json"), read("models/tabletop/scores_zero_regions.json")

    def row(name: str, key: str, count: int, chance: float | None) -> tuple[str, ...]:
        return (name, f"{100 * scores[key]:.1f}", f"{100 * hidden[key]:.1f}",
                "" if chance is None else f"{100 * chance:.1f}", str(count))

    rows = [row(task.replace("_", " "), task, scores["counts"][task], scores["chance"][task]) for task in _TASKS]
    rows += [row(f"{task}, pairs never seen", f"held_out_{task}", scores["counts"]["held_out"], None)
             for task in ("kind", "colour")]
    head = (f"{scores['scenes']} scenes, seed {scores['seed']}", "right, %", "regions zeroed, %",
            "best constant answer, %", "questions")
    return markdown(head, rows)


def extractors() -> str:
    """What the region extractors learn and cost on the tabletop."""
    results = read("benchmarks/results/extractors.json")["tabletop"]
    rows = []
    for name, facts in results.items():
        right, small = facts["accuracy"]["all"], facts["accuracy"]["small"]
        rows.append((f"`{name.replace(' + ', '` + ')}" + ("" if " + " in name else "`"),
                     f"{100 * right['kind']:.1f}", f"{100 * small['kind']:.1f}",
                     *(f"{100 * right[attribute]:.1f}" for attribute in ("colour", "size", "material")),
                     f"{facts['parameters'] / 1e6:.2f} M", f"{facts['multiply_adds'] / 1e9:.2f} G",
                     f"{facts['time_ratio']:.2f}"))
    head = ("tabletop", "kind, %", "kind of small ones, %", "colour, %", "size, %", "material, %", "parameters",
            "multiply-adds", "time")
    return markdown(head, rows)


def extractor_costs() -> str:
    """What the region extractors cost at the published sizes."""
    results = read("benchmarks/results/extractors.json")["full_size"]
    rows = [(f"`{name}`", f"{facts['parameters'] / 1e6:.0f} M", f"{facts['multiply_adds'] / 1e12:.3g} T")
            for name, facts in results.items()]
    return markdown(("CLIP ViT-L/14 levels, 8 regions", "parameters", "multiply-adds"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "tabletop": tabletop, "extractors": extractors, "extractor_costs": extractor_costs}


def main() -> int:
    """Rewrites README.md; exit status 1 where it names an unknown table or a file is missing."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    try:
        new = _PLACE.sub(lambda place: place.group(1) + TABLES[place.group(2)]() + place.group(3), text)
        new = insert(new, table(RESULTS))
    except (KeyError, OSError, ValueError) as error:
        print(f"error: README.md: no table or figure {error}", file=sys.stderr)
        return 1
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
