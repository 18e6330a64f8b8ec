"""What a person makes of a record: as the page has it, and as it goes into the file."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ros_gpt4roi.runtime.regions import check_box
from training.data.record_file import (
    FARTHEST,
    MENTION,
    MOST,
    Conversation,
    Judgement,
    PictureRecord,
    RegionRecord,
    parse_record,
    rejected,
    to_json,
)
from training.data.texts import plain

_Text = Annotated[str, StringConstraints(max_length=20_000)]
_Coordinate = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class RegionEdit(_Part):
    """A region as the person leaves it; `wrong` where its text is, and what is right is not said."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    box: tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]
    name: _Text = ""
    attributes: dict[_Text, _Text] = Field(default_factory=dict, max_length=MOST)
    description: _Text = ""
    wrong: bool = False


class ConversationEdit(_Part):
    """A conversation as the person leaves it; `place` is its own among those of the record, from 0."""

    place: Annotated[int, Field(ge=0, lt=MOST)]
    rounds: list[tuple[_Text, _Text]] = Field(min_length=1, max_length=MOST)
    wrong: bool = False


class Edits(_Part):
    """All that the page can change of a record. What is missing was taken away."""

    regions: list[RegionEdit] = Field(max_length=MOST)
    conversations: list[ConversationEdit] = Field(max_length=MOST)


def unchanged(record: PictureRecord) -> Edits:
    """A record as a person finds it."""
    regions = [RegionEdit(id=region.id, box=region.box, name=region.name, attributes=region.attributes,
                          description=region.description, wrong=rejected(region.judgements))
               for region in record.regions]
    return Edits(regions=regions, conversations=[
        ConversationEdit(place=place, rounds=list(conversation.rounds), wrong=rejected(conversation.judgements))
        for place, conversation in enumerate(record.conversations)])


def accepted(record: PictureRecord, edits: Edits, who: str, time: float) -> PictureRecord:
    """Make the record that a person has accepted: its texts are then theirs, and judgements say what they were.

    Args:
        record: Before.
        edits: What the person has left of it.
        who: The person's name; may be empty.
        time: When, in seconds since 1970, UTC.

    Returns:
        The record, with nothing left to review.

    Raises:
        ValueError: It would be none; the message names the region or conversation.
    """
    before = {region.id: region for region in record.regions}
    regions = []
    for edit in edits.regions:
        try:
            regions.append(_region(before.get(edit.id), edit, record, who, time))
        except ValueError as error:
            raise ValueError(f"region {edit.id}: {error}") from error
    conversations = []
    ids = {region.id for region in regions}
    if len(ids) < len(regions):
        raise ValueError("an id of a region is there twice")
    for number, said in enumerate(edits.conversations, 1):
        if said.place >= len(record.conversations):
            raise ValueError(f"conversation {number} is not in the record")
        conversation = _conversation(record.conversations[said.place], said, who, time)
        named = {match[1] for turn in conversation.rounds for text in turn for match in MENTION.finditer(text)}
        if not said.wrong and (unknown := sorted(named - ids)):
            raise ValueError(f"conversation {number} speaks of region {unknown[0]!r}, which is not there")
        conversations.append(conversation)
    return parse_record(to_json(dataclasses.replace(
        record, regions=tuple(regions), conversations=tuple(conversations), review=())))


def _region(before: RegionRecord | None, edit: RegionEdit, record: PictureRecord, who: str,
            time: float) -> RegionRecord:
    x1, y1, x2, y2 = check_box(edit.box, record.width, record.height, points=False)
    box = max(x1, 0.0), max(y1, 0.0), min(x2, float(record.width)), min(y2, float(record.height))
    mask = before.mask if before is not None and edit.box == before.box else None
    name, description = (plain(text, what) if text.strip() else ""
                         for what, text in (("name", edit.name), ("description", edit.description)))
    attributes = {plain(what, "name of an attribute"): plain(value, what)
                  for what, value in edit.attributes.items() if value.strip()}
    old = before or RegionRecord(edit.id, box)
    region = dataclasses.replace(old, box=box, mask=mask, name=name, attributes=attributes, description=description)
    said, right = old.description or old.name, description or name
    if description == old.description and name != old.name:
        said, right = old.name, name
    if edit.wrong:
        # Readers leave a rejected description out; a name has nothing that would tell them.
        region, right = dataclasses.replace(region, name=""), ""
    else:
        region = dataclasses.replace(region, source="person", confidence=1.0)
    if not said and not edit.wrong:
        return region
    return dataclasses.replace(region, judgements=_with(old.judgements, _judgement(said, right, edit.wrong, who, time)))


def _conversation(before: Conversation, edit: ConversationEdit, who: str, time: float) -> Conversation:
    rounds = tuple((plain(question, "question"), plain(answer, "answer")) for question, answer in edit.rounds)
    said, right = before.rounds[-1][1], rounds[-1][1]
    for (_, old), (_, new) in zip(before.rounds, rounds):
        if old != new:
            said, right = old, new
            break
    judgements = _with(before.judgements, _judgement(said, "" if edit.wrong else right, edit.wrong, who, time))
    if edit.wrong:
        return dataclasses.replace(before, rounds=rounds, judgements=judgements)
    return Conversation(rounds, "person", 1.0, judgements)


def _with(judgements: tuple[Judgement, ...], newest: Judgement) -> tuple[Judgement, ...]:
    """As many as a record holds."""
    return (*judgements, newest)[-MOST:]


def _judgement(said: str, right: str, rejects: bool, who: str, time: float) -> Judgement:
    wrong = rejects or said != right
    return Judgement(said, right if wrong else "", wrong, who, time)
