"""Which pictures of a folder a person should look at first: each reason chooses its worst ones, up to a budget."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable
from pathlib import Path

from training.data.evidence import unusual_pictures
from training.data.record_file import (
    FILE,
    Conversation,
    PictureRecord,
    RegionRecord,
    contradict,
    read_records,
    rejected,
    rewrite_records,
)
from training.data.report import Report

_SURE = 0.8  # confidence from which a text is none to look at


def select_for_review(folder: Path, budget: int) -> dict[str, int]:
    """Write the reasons for a review into a folder's records, in place of those that they have.

    Args:
        folder: With records.jsonl.
        budget: Pictures that each reason chooses at most, those first that it fits best.

    Returns:
        Reason → pictures that were chosen for it.

    Raises:
        RecordError: The file cannot be read, or a record in it is malformed.
        EvidenceError: The folder's index is damaged.
    """
    unusual = unusual_pictures(folder)
    reasons: dict[str, Callable[[PictureRecord], float]] = {
        "thumbs down": _thumbs_down, "disagreement": _disagreement, "low confidence": _doubt}
    if unusual is not None:
        reasons["unusual"] = lambda record: unusual.get(record.file, 0.0)
    best: dict[str, list[tuple[float, int]]] = {reason: [] for reason in reasons}
    for line, record in enumerate(read_records(folder / FILE, Report(0))):
        for reason, score_of in reasons.items():
            if (score := score_of(record)) > 0:
                heapq.heappush(best[reason], (score, -line))  # of equals, the first ones
                if len(best[reason]) > budget:
                    heapq.heappop(best[reason])
    chosen: dict[int, list[str]] = {}
    for reason, found in best.items():
        for _, line in found:
            chosen.setdefault(-line, []).append(reason)
    rewrite_records(folder, lambda line, record: dataclasses.replace(record, review=tuple(chosen.get(line, ()))))
    return {reason: len(found) for reason, found in best.items()}


def _said(record: PictureRecord) -> list[RegionRecord | Conversation]:
    return [*record.regions, *record.conversations]


def _thumbs_down(record: PictureRecord) -> float:
    """When a person last called a text wrong without saying what is right, seconds; 0 where nobody did."""
    return max((max(item.judgements[-1].time, 1e-9) for item in _said(record)
                if rejected(item.judgements)), default=0.0)


def _disagreement(record: PictureRecord) -> float:
    """How often people contradict each other, a question has several answers, or a detector and a description differ.

    The last counts half: a cup may well be a mug.
    """
    people = sum(contradict(item.judgements) for item in _said(record))
    answers: dict[str, set[str]] = {}
    for conversation in record.conversations:
        question, answer = conversation.rounds[0]
        answers.setdefault(question.lower(), set()).add(answer.lower())
    names = sum(bool(region.name and region.description) and not region.judgements
                and region.name.lower() not in region.description.lower() for region in record.regions)
    return people + sum(len(found) - 1 for found in answers.values()) + names / 2


def _doubt(record: PictureRecord) -> float:
    """How far the least sure text of the picture is from being sure; 0 where all are, or people said them."""
    return max((_SURE - item.confidence for item in _said(record)
                if item.source != "person" and item.confidence is not None), default=0.0)
