"""What became of a retraining: right texts before and after, on what is new and on what was known, name by name."""

from __future__ import annotations

import base64
import html
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ros_gpt4roi.image_file import encode_image, read_image
from ros_gpt4roi.model_card import CARD_FILE
from ros_gpt4roi.regular_file import write_whole
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.probes import contains
from training.data.record_file import PictureRecord, RegionRecord, picture_path, read_records
from training.data.report import Report

from .corrections import key_phrase, taught
from .replay import describe_regions

REPORT_FILE = "report.html"
_SHOWN = 40  # doubtful corrections in the report
_CROP = 96  # pixels of their pictures


@dataclass(frozen=True)
class Case:
    """A region whose right text is known, and what was said of it.

    Attributes:
        picture: Its file.
        record: Of the picture.
        region: The region.
        phrase: What a right description contains.
        before: The description by the model before.
        after: By the retrained one.
    """

    picture: Path
    record: PictureRecord
    region: RegionRecord
    phrase: str
    before: str
    after: str


def known_phrase(region: RegionRecord) -> str:
    """What a right text about a region of a replay contains: its name, or else its description.

    Empty where the description does not hold the name, as that of a detector that calls all things "object": it would
    be found neither before nor after.
    """
    if taught(region):
        return key_phrase(region)
    if region.name and region.description:
        return region.name if contains(region.description, region.name) else ""
    return region.name or region.description


def taught_phrase(region: RegionRecord) -> str:
    """What a right text about a region contains, where a person said it; else empty."""
    return key_phrase(region) if taught(region) else ""


def read_cases(files: Sequence[Path], phrase: Callable[[RegionRecord], str], most: int,
               ) -> list[tuple[Path, PictureRecord]]:
    """The first pictures of files of records that have a region with a known text; what is malformed costs itself.

    Args:
        files: Such as records.jsonl, with the pictures beside each.
        phrase: What a right text about a region contains; empty where it is not known.
        most: How many pictures.
    """
    report = Report(sys.maxsize)
    found: list[tuple[Path, PictureRecord]] = []
    for file in files:
        for record in read_records(file, report):
            with report.item(f"{file}: {record.file[:200]}"):
                if any(map(phrase, record.regions)):
                    found.append((picture_path(file.parent, record.file), record))
            if len(found) == most:
                return found
    return found


def compare(before: Pipeline, after: Pipeline, pictures: Sequence[tuple[Path, PictureRecord]],
            phrase: Callable[[RegionRecord], str]) -> list[Case]:
    """Have pictures described by two models; one that cannot be read costs itself.

    Args:
        before: One model.
        after: The other.
        pictures: Each with its record.
        phrase: What a right text about a region contains; empty where it is not known.
    """
    report, cases = Report(len(pictures)), list[Case]()
    for path, record in tqdm(pictures, unit=" pictures", desc="describing"):
        with report.item(str(path)):
            old, new = (describe_regions(pipeline, path, record) for pipeline in (before, after))
            cases += [Case(path, record, region, phrase(region), old.get(region.id, ""), new.get(region.id, ""))
                      for region in record.regions if phrase(region)]
    return cases


def _figures(cases: Sequence[Case]) -> dict[str, Any]:
    def share(texts: Iterator[bool]) -> float | None:
        return round(sum(texts) / len(cases), 4) if cases else None

    return {"count": len(cases), "before": share(contains(case.before, case.phrase) for case in cases),
            "after": share(contains(case.after, case.phrase) for case in cases)}


def make_card(versions: tuple[str, str], new: Sequence[Case], old: Sequence[Case], learned: Sequence[Case],
              facts: dict[str, Any]) -> dict[str, Any]:
    """Make the card.

    Args:
        versions: Of the model before and of the retrained one.
        new: Corrections that were held out.
        old: Regions of what the model knew.
        learned: Corrections that were learned from.
        facts: What else is to be told, such as how long it took.

    Returns:
        What `card.json` holds. `doubtful` lists corrections that were learned from and still are answered otherwise:
        mistakes of people are among them.
    """
    names = {group: {name: _figures([case for case in cases if case.phrase == name])
                     for name in sorted({case.phrase for case in cases})}
             for group, cases in (("new", new), ("old", old))}
    doubtful = [case for case in (*learned, *new) if not contains(case.after, case.phrase)]
    return {"before": versions[0], "after": versions[1], "new": _figures(new), "old": _figures(old), "names": names,
            "doubtful": [{"file": case.record.file, "origin": case.record.origin, "region": case.region.id,
                          "right": case.phrase, "said": case.after,
                          "who": case.region.judgements[-1].who if case.region.judgements else ""}
                         for case in doubtful], **facts}


def write_card(folder: Path, card: dict[str, Any], cases: Sequence[Case]) -> None:
    """Write `card.json` and `report.html`.

    Args:
        folder: Of the model.
        card: As `make_card` makes it.
        cases: All that were learned from or held out; pictures of the doubtful ones are shown.
    """
    write_whole(folder / CARD_FILE, (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode())
    write_whole(folder / REPORT_FILE, _report(card, cases).encode())


def _report(card: dict[str, Any], cases: Sequence[Case]) -> str:
    sections = [_table("All", [(title, card[group]) for group, title in _GROUPS])]
    sections += [_table(title, list(card["names"][group].items())) for group, title in _GROUPS if card["names"][group]]
    doubtful = [case for case in cases if not contains(case.after, case.phrase)]
    if doubtful:
        sections.append(f"<h2>Corrections that it still answers otherwise ({len(doubtful)})</h2><p>Mistakes of people "
                        "are among them: look at these first.</p><table><tr><th></th><th>corrected to</th>"
                        f"<th>it says</th><th>who</th></tr>{''.join(map(_doubt, doubtful[:_SHOWN]))}</table>")
    facts = {name: value for name, value in card.items() if name not in ("new", "old", "names", "doubtful")}
    sections.append(f"<h2>Training</h2><pre>{html.escape(json.dumps(facts, indent=1, ensure_ascii=False))}</pre>")
    return ("<!doctype html><html lang=en><meta charset=utf-8><title>Retraining</title><style>body{font:15px/1.5 "
            "sans-serif;margin:2em auto;max-width:60em}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid "
            f"#ddd}}</style><h1>{html.escape(card['after'])}</h1>{''.join(sections)}</html>\n")


_GROUPS = ("new", "Corrections that were held out"), ("old", "What it knew")


def _table(title: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    lines = "".join(f"<tr><td>{html.escape(name)}<td>{row['count']}<td>{percent(row['before'])}"
                    f"<td>{percent(row['after'])}" for name, row in rows)
    return (f"<h2>{html.escape(title)}</h2><table><tr><th></th><th>regions</th><th>right before</th><th>after</th></tr>"
            f"{lines}</table>")


def _doubt(case: Case) -> str:
    x1, y1, x2, y2 = map(int, case.region.box)
    crop = Image.fromarray(read_image(case.picture)[y1:max(y2, y1 + 1), x1:max(x2, x1 + 1)])
    crop.thumbnail((_CROP, _CROP))
    data = encode_image(np.asarray(crop), quality=75)
    who = case.region.judgements[-1].who if case.region.judgements else ""
    return (f"<tr><td><img alt='' src='data:image/jpeg;base64,{base64.b64encode(data).decode()}'>"
            f"<td>{html.escape(case.phrase)}<td>{html.escape(case.after)}<td>{html.escape(who)}")


def as_fields(value: Any) -> dict[str, Any]:
    """A dataclass as JSON holds it."""
    return {name: str(field) if isinstance(field, Path) else field for name, field in asdict(value).items()}
