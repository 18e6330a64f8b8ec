"""Write measured figures into the documents.

    python -m benchmarks.tables            # rewrites README.md and docs/*.md
    python -m benchmarks.tables --check    # changes nothing; status 1 where a table is not what the JSON files say

Between `<!-- table: NAME -->` and `<!-- end -->` stands what TABLES[NAME] makes of committed JSON files, so that a
figure in the documents is always one that was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TASKS = ("kind", "colour", "size", "material", "relations", "counting", "comparing", "which_region", "yes_no", "why",
          "describe")


def read(path: str) -> dict[str, Any]:
    """Return the content of a committed JSON file, by its place in the repository."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def headlines(folder: Path = RESULTS) -> str:
    """Return the numbers at the top level of every result file, with the machine that gave them.

    Raises:
        ValueError: a file is not a JSON object; the text names it.
    """
    rows = []
    for path in sorted(folder.glob("*.json")):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            numbers = {name: value for name, value in results.items()
                       if isinstance(value, (int, float)) and not isinstance(value, bool)}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}: expected a JSON object ({error})") from error
        machine = results.get("machine", {})
        where = machine.get("gpu") or f"{machine.get('cpu', '?')}, {machine.get('threads', '?')} threads"
        rows += [(path.stem, name, f"{value:.3g}", where) for name, value in numbers.items()]
    return markdown(("benchmark", "figure", "value", "machine"), rows)


def tabletop() -> str:
    """Return the scores of the embedded model, with and without its region embeddings."""
    scores, hidden = read("models/tabletop/scores.json"), read("models/tabletop/scores_zero_regions.json")

    def row(name: str, key: str, count: int, constant: float | None) -> tuple[str, ...]:
        return (name, f"{100 * scores[key]:.1f}", f"{100 * hidden[key]:.1f}",
                "" if constant is None else f"{100 * constant:.1f}", str(count))

    rows = [row(task.replace("_", " "), task, scores["counts"][task], scores["chance"][task]) for task in _TASKS]
    rows += [row(f"{task}, pairs never seen", f"held_out_{task}", scores["counts"]["held_out"], None)
             for task in ("kind", "colour")]
    head = (f"{scores['scenes']} scenes, seed {scores['seed']}", "right, %", "regions zeroed, %",
            "best constant answer, %", "questions")
    return markdown(head, rows)


def extractors() -> str:
    """Return what the region extractors learn and cost on the tabletop."""
    results = read("benchmarks/results/extractors.json")["tabletop"]
    rows = []
    for name, measured in results.items():
        right, small = measured["accuracy"]["all"], measured["accuracy"]["small"]
        rows.append((f"`{name.replace(' + ', '` + ')}" + ("" if " + " in name else "`"),
                     f"{100 * right['kind']:.1f}", f"{100 * small['kind']:.1f}",
                     *(f"{100 * right[attribute]:.1f}" for attribute in ("colour", "size", "material")),
                     f"{measured['parameters'] / 1e6:.2f} M", f"{measured['multiply_adds'] / 1e9:.2f} G",
                     f"{measured['time_ratio']:.2f}"))
    head = ("tabletop", "kind, %", "kind of small ones, %", "colour, %", "size, %", "material, %", "parameters",
            "multiply-adds", "time")
    return markdown(head, rows)


def extractor_costs() -> str:
    """Return what the region extractors cost at the published sizes."""
    results = read("benchmarks/results/extractors.json")["full_size"]
    rows = [(f"`{name}`", f"{measured['parameters'] / 1e6:.0f} M", f"{measured['multiply_adds'] / 1e12:.3g} T")
            for name, measured in results.items()]
    return markdown(("CLIP ViT-L/14 levels, 8 regions", "parameters", "multiply-adds"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "headlines": headlines, "tabletop": tabletop, "extractors": extractors, "extractor_costs": extractor_costs}


def fill(text: str) -> str:
    """Return the text with every marked table made anew. Raises KeyError for an unknown name."""
    return _PLACE.sub(lambda place: place.group(1) + TABLES[place.group(2)]() + place.group(3), text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check the documents; return 1 where a table is unknown, its file is missing, or a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 where a table is out of date")
    options = parser.parse_args(arguments)
    stale = False
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        try:
            new = fill(text)
        except (KeyError, OSError, ValueError) as error:
            print(f"error: {path}: no table or figure {error}", file=sys.stderr)
            return 1
        if new == text:
            continue
        stale = True
        if options.check:
            print(f"{path}: out of date; run python -m benchmarks.tables", file=sys.stderr)
        else:
            path.write_text(new, encoding="utf-8")
    return int(options.check and stale)


if __name__ == "__main__":
    sys.exit(main())
