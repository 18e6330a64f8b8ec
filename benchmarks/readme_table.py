"""The headline figures of benchmarks/results as a table; `python -m benchmarks.readme` writes it into the README.

Headlines are the numbers at the top level of a result file. The table goes between the lines BEGIN and END; a README
without them is refused, and so is a result file that is no JSON object.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def table(folder: Path) -> str:
    """A Markdown table of every headline of a folder of result files. Raises ValueError naming a bad file."""
    lines = ["| benchmark | figure | value | machine |", "| --- | --- | --- | --- |"]
    for path in sorted(folder.glob("*.json")):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            headlines = {name: value for name, value in results.items()
                         if isinstance(value, (int, float)) and not isinstance(value, bool)}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}: expected a JSON object ({error})") from error
        machine = results.get("machine", {})
        where = machine.get("gpu") or f"{machine.get('cpu', '?')}, {machine.get('threads', '?')} threads"
        lines += [f"| {path.stem} | {name} | {value:.3g} | {where} |" for name, value in headlines.items()]
    return "\n".join(lines)


def insert(text: str, content: str) -> str:
    """The text with the content between the marks. Raises ValueError where there are none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"
