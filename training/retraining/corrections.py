"""What people said about a model's texts → what it is trained on, and what it is held against."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ros_gpt4roi.image_file import read_image
from ros_gpt4roi.model.prompt import ChatPrompts
from ros_gpt4roi.runtime.probes import contains
from ros_gpt4roi.runtime.region_text import RegionText
from training.data.bags.regions import with_mentions
from training.data.record import RecordError
from training.data.record_file import (
    FILE,
    Conversation,
    PictureRecord,
    RecordWriter,
    RegionRecord,
    contradict,
    picture_path,
    read_records,
    rejected,
)
from training.data.records import check_conversation
from training.data.report import Report
from training.data.segmentation import segmentation_region
from training.data.source import BoxFilter, image_size
from training.data.texts import plain

PERSON = "person"
_ARTICLE = re.compile(r"^(?:an?|the) ")
_SIMILAR = 0.5  # of the words, from which one text is a correction of another and no new one
_LONG_PHRASE = 6  # words
_BOXES = BoxFilter()  # as sources have it


def taught(region: RegionRecord) -> str:
    """The text that a person gave or confirmed for a region; empty where none did.

    It is the description, or the name, where there is none, or where a person changed the name alone and the
    description still says something else.
    """
    if region.source != PERSON or rejected(region.judgements):
        return ""
    newest = region.judgements[-1] if region.judgements else None
    if newest is not None and newest.wrong and newest.right == region.name:
        return region.description if contains(region.description, region.name) else region.name
    return region.description or region.name


def key_phrase(region: RegionRecord) -> str:
    """What a right text about a region must contain: its name, or the words that a person put in place of others.

    A name that the person's text does not hold is the detector's, such as "object" or a number.

    Args:
        region: With a text of a person's.

    Returns:
        Words in lower case; all of the text where it is another one altogether.
    """
    text = _words(taught(region))
    newest = region.judgements[-1] if region.judgements else None
    named = bool(region.name) and contains(taught(region), region.name)
    if named and newest is None:
        return " ".join(_words(region.name))
    if newest is not None and newest.wrong:
        matcher = difflib.SequenceMatcher(None, _words(newest.said), text, autojunk=False)
        changes = [text[start:end] for tag, _, _, start, end in matcher.get_opcodes() if tag in ("replace", "insert")]
        if matcher.ratio() >= _SIMILAR and len(changes) == 1:
            return " ".join(changes[0])
    if named:
        return " ".join(_words(region.name))
    return _ARTICLE.sub("", " ".join(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@dataclasses.dataclass(frozen=True)
class Corrected:
    """What was found in folders of one's own pictures.

    Attributes:
        pictures: (folder, record) of those with a text of a person's.
        others: The other ones.
        regions: Texts of persons about regions.
        conversations: Conversations that a person corrected or confirmed.
        contradictions: Texts about which people contradict each other; the newest decides.
        rejected: Texts that are called wrong without a word about what is right.
    """

    pictures: tuple[tuple[Path, PictureRecord], ...]
    others: tuple[tuple[Path, PictureRecord], ...]
    regions: int
    conversations: int
    contradictions: int
    rejected: int

    def lines(self) -> Iterator[str]:
        """What was found, for people to read."""
        yield (f"{self.regions} regions and {self.conversations} conversations with a text of a person's, in "
               f"{len(self.pictures)} pictures; {len(self.others)} other pictures")
        if self.contradictions:
            yield f"{self.contradictions} texts with contradicting corrections: the newest one decides"
        if self.rejected:
            yield f"{self.rejected} texts that are called wrong, without a word about what is right: left out"


def find_corrections(folders: Sequence[Path], report: Report, prompts: ChatPrompts | None = None) -> Corrected:
    """Read folders of one's own pictures, as far as there is something to learn from.

    Args:
        folders: Each with records.jsonl.
        report: Counts what cannot be read or learned from.
        prompts: Of the model that learns; None: texts may be of any length.

    Raises:
        RecordError: There is nothing to learn from, or a file cannot be read.
    """
    pictures: list[tuple[Path, PictureRecord]] = []
    others: list[tuple[Path, PictureRecord]] = []
    counts = dict.fromkeys(("regions", "conversations", "contradictions", "rejected"), 0)
    for folder in folders:
        for found in read_records(folder / FILE, report):
            record = _usable(folder, found, report, prompts)
            if record is None:
                continue
            said: list[RegionRecord | Conversation] = [*record.regions, *record.conversations]
            regions = sum(bool(taught(region)) for region in record.regions)
            conversations = sum(_is_taught(talk) for talk in record.conversations)
            for name, count in (("regions", regions), ("conversations", conversations),
                                ("contradictions", sum(contradict(item.judgements) for item in said)),
                                ("rejected", sum(rejected(item.judgements) for item in said))):
                counts[name] += count
            (pictures if regions or conversations else others).append((folder, record))
    if len(pictures) < 2:
        raise RecordError(f"{', '.join(map(str, folders))}: {len(pictures)} pictures with a text of a person's, "
                          "expected two or more, since one is held out: correct descriptions or answers, and convert "
                          "the bags with `python -m training.data from_bag`, or accept pictures with `python -m "
                          "training.review`")
    return Corrected(tuple(pictures), tuple(others), **counts)


def _usable(folder: Path, record: PictureRecord, report: Report, prompts: ChatPrompts | None) -> PictureRecord | None:
    """A record without what its source would leave out; None where its picture is no good.

    What is held out and what the card counts must be what can be learned, and a picture that is damaged must not be
    found out after hours of training.
    """
    usable = None
    with report.item(f"{folder / FILE}: {record.file[:200]}"):
        path = picture_path(folder, record.file)
        size = image_size(str(path), (record.width, record.height), report)
        _BOXES.check_image(size)
        regions: list[RegionRecord] = []
        for region in record.regions:
            with report.item(f"{record.file}: region {region.id}"):
                _BOXES.box(region.box, size, report)
                if region.mask is not None:
                    segmentation_region(region.mask, size)
                if text := taught(region):
                    _check_length(plain(text, "text"), prompts)
                regions.append(region)
        ids = {region.id for region in regions}
        talks: list[Conversation] = []
        for number, talk in enumerate(record.conversations, 1):
            with report.item(f"{record.file}: conversation {number}"):
                check_conversation(talk, ids)
                for turn in talk.rounds:
                    _check_length(" ".join(turn), prompts)
                talks.append(talk)
        if any(map(taught, regions)) or any(map(_is_taught, talks)):
            read_image(path)
        usable = dataclasses.replace(record, regions=tuple(regions), conversations=tuple(talks))
    return usable


def _check_length(text: str, prompts: ChatPrompts | None) -> None:
    """Refuse a text that takes more than half of what the model reads, which has a picture and regions to hold, too."""
    if prompts is None:
        return
    count, most = len(prompts.tokenizer.encode(text, add_special_tokens=False)), prompts.config.context // 2
    if count > most:
        raise ValueError(f"text of {count} tokens, expected at most {most}, half of the model's prompt.context: "
                         f"{text[:80]!r}")


def _is_taught(talk: Conversation) -> bool:
    return talk.source == PERSON and not rejected(talk.judgements)


def split(pictures: Sequence[tuple[Path, PictureRecord]], share: float, seed: int,
          ) -> tuple[list[tuple[Path, PictureRecord]], list[tuple[Path, PictureRecord]]]:
    """Divide pictures into those to learn from and those that are held out, at least one of each.

    Args:
        pictures: Two or more.
        share: That is held out, 0 to 1.
        seed: Of the choice.
    """
    order = np.random.default_rng(seed).permutation(len(pictures)).tolist()
    count = min(max(1, round(share * len(pictures))), len(pictures) - 1)
    return [pictures[place] for place in sorted(order[count:])], [pictures[place] for place in sorted(order[:count])]


def write_lessons(pictures: Sequence[tuple[Path, PictureRecord]], folder: Path, describe: str) -> None:
    """Write pictures with what people said about them as conversations, in the words of the robot's questions.

    Args:
        pictures: (folder, record) of each; a picture that is not there costs itself.
        folder: Where to, as a folder of one's own pictures.
        describe: The model's question for a description; {region} stands for the region.

    Raises:
        RecordError: None of the pictures can be read.
    """
    report = Report(len(pictures))
    with RecordWriter(folder) as writer:
        for number, (source, record) in enumerate(pictures):
            with report.item(f"{source}: {record.file}"):
                path = picture_path(source, record.file)
                file = writer.add_picture(f"{number:06d}{path.suffix}", path.read_bytes())
                names = RegionText([region.id for region in record.regions])
                conversations = [Conversation(((ask(describe, region), with_mentions(taught(region), names)),),
                                              PERSON, 1.0) for region in record.regions if taught(region)]
                conversations += [talk for talk in record.conversations if _is_taught(talk)]
                writer.write(dataclasses.replace(record, file=file, conversations=tuple(conversations), review=()))
                report.kept += 1
        if not report.kept:
            raise RecordError("\n  ".join(("none of the pictures can be read:", *report.lines())))


def ask(describe: str, region: RegionRecord) -> str:
    """The question for a description of a region, in the words of records.

    Args:
        describe: The model's question; {region} stands for the region.
        region: The region.
    """
    return describe.replace("{region}", f"<region {region.id}>")


def is_short(phrase: str) -> bool:
    """Whether a phrase is one that an answer can be searched for."""
    return 0 < len(phrase.split()) <= _LONG_PHRASE
