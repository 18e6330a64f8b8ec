"""Results for machines (JSON), for the terminal (a table), and for people (a page with pictures of the worst cases)."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ros_gpt4roi.annotate import annotate
from ros_gpt4roi.image_file import ImageFileError, encode_image, read_image
from ros_gpt4roi.runtime.types import Region
from training.data.record import references
from training.evaluation.base import Result, Scored

_PICTURE = 360

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child { text-align: left; } td:nth-child(2), tr:first-child { font-weight: 600; }
.protocol, .metadata { color: #666; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; overflow: hidden; }
figure img { width: 100%; display: block; } figcaption { padding: .6rem .8rem; overflow-wrap: anywhere; }
figcaption p { margin: .2rem 0; white-space: pre-line; } .history { color: #888; } .said { color: #b00020; }
.good .said { color: #1a7f37; } .source { color: #999; font-size: .8rem; }
"""


def load_published() -> dict[str, dict[str, dict[str, float]]]:
    """Benchmark → model → metric → figure, as printed."""
    return yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))


def write_report(results: Sequence[Result], out: Path, metadata: Mapping[str, Any], worst: int = 12) -> str:
    """Write report.json, report.txt and report.html.

    Args:
        results: Of each benchmark.
        out: The folder, made where it is missing.
        metadata: What was measured with what: model, versions, device.
        worst: Cases shown of each benchmark, those with the lowest scores.

    Returns:
        The table, as in report.txt.
    """
    out.mkdir(parents=True, exist_ok=True)
    published = load_published()
    text = table(results, published)
    (out / "report.txt").write_text(text + "\n", encoding="utf-8")
    (out / "report.json").write_text(json.dumps({
        "metadata": dict(metadata),
        "results": [{
            "name": result.name, "protocol": result.protocol, "metrics": result.metrics,
            "published": published.get(result.name, {}), "malformed": result.malformed, "errors": list(result.errors),
            "cases": [_plain_case(case) for case in result.cases],
        } for result in results],
    }, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "report.html").write_text(page(results, published, metadata, worst), encoding="utf-8")
    return text


def table(results: Sequence[Result], published: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A block a benchmark: its protocol, then a line a metric with our figure and the published ones."""
    lines = []
    for result in results:
        lines += [result.name, f"  {result.protocol}"]
        lines += [f"  {metric:<22}{ours:>12}" + "".join(f"{other:>20}" for other in others)
                  for metric, ours, *others in _rows(result, published)]
        lines += [*(f"  {line}" for line in _left_out(result)), ""]
    return "\n".join(lines).rstrip()


def page(results: Sequence[Result], published: Mapping[str, Mapping[str, Mapping[str, float]]],
         metadata: Mapping[str, Any], worst: int) -> str:
    """One HTML file that needs nothing else: tables, then the worst cases of each benchmark and a few good ones."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Evaluation</title><style>{_STYLE}</style><h1>Evaluation</h1>",
        "<p class=metadata>" + "<br>".join(f"{_escape(name)}: {_escape(value)}"
                                            for name, value in metadata.items()) + "</p>",
    ]
    for result in results:
        parts.append(f"<h2>{_escape(result.name)}</h2><p class=protocol>{_escape(result.protocol)}</p><table>")
        parts += ["<tr><td>" + "<td>".join(map(_escape, row)) for row in _rows(result, published)]
        parts += ["</table>", *(f"<p class=source>{_escape(line)}</p>" for line in _left_out(result))]
        order = sorted(result.cases, key=lambda case: case.score)
        shown = [("The worst", order[:worst], ""), ("Some of the best", order[worst:][::-1][:3], "good")]
        for title, cases, kind in shown:
            if cases:
                parts.append(f"<h3>{title}</h3><div class='cases {kind}'>{''.join(map(_case, cases))}</div>")
    return "\n".join(parts) + "\n</html>\n"


def _rows(result: Result, published: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
    """The heads, then a row a metric."""
    others = published.get(result.name, {})
    return [["", "this model", *others], *(
        [metric, _figure(value), *(_figure(other.get(metric)) for other in others.values())]
        for metric, value in result.metrics.items())]


def _left_out(result: Result) -> list[str]:
    lines = [f"left out as malformed: {result.malformed}; the first of them:", *result.errors]
    return lines if result.malformed else []


def _case(case: Scored) -> str:
    record = case.item.record
    earlier = [f"{_escape(turn.question)} — {_escape(turn.answer)}" for turn in record.rounds[:-1]]
    history = "".join(f"<p class=history>{turn}" for turn in earlier)
    right = " / ".join(case.item.references)
    try:
        image = f"<img alt='' src='{picture(case)}'>"
    except ImageFileError as error:  # a file that could be read before is no reason to lose all figures
        image = f"<p class=source>{_escape(error)}"
    return (
        f"<figure>{image}<figcaption>{history}<p>{_escape(record.rounds[-1].question)}"
        f"<p class=said>{_escape(case.text or '(nothing)')}<p>right: {_escape(right)}"
        f"<p class=source>{_escape(record.source)}, score {case.score:.2f}</figcaption></figure>"
    )


def picture(case: Scored) -> str:
    """The case's image with the boxes that question and truth name (all, where they name none), as a data: URL."""
    record = case.item.record
    image = Image.fromarray(record.image if isinstance(record.image, np.ndarray) else read_image(record.image))
    scale = _PICTURE / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size])
    boxes = (record.boxes * scale).tolist()
    spoken = record.rounds[-1].question + "".join(case.item.references)
    named = sorted(set(references(spoken)) or range(1, len(boxes) + 1))
    drawn = annotate(np.asarray(image), [(Region(str(number), tuple(boxes[number - 1])), "") for number in named])
    return "data:image/jpeg;base64," + base64.b64encode(encode_image(drawn, quality=80)).decode()


def _plain_case(case: Scored) -> dict[str, Any]:
    record = case.item.record
    return {
        "source": record.source, "question": record.rounds[-1].question, "said": case.text,
        "right": list(case.item.references), "score": round(case.score, 4),
    }


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _escape(value: Any) -> str:
    return html.escape(str(value))
