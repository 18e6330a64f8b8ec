"""Visual Commonsense Reasoning: question → answer → rationale about marked people and things.

The files hold every text twice: as a string (`*_orig`), where objects are 1-based numbers, and as a token list, where
they are lists of 0-based indices. Numbers also count and order ("2 women", "the 1st"); only the token list tells which
is which, so the two are aligned number by number. Texts that do not align are left out and counted.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from typing_extensions import override

from ros_gpt4roi.configuration import setting
from ros_gpt4roi.regular_file import read_json
from training.data import templates
from training.data.coco_format import declared_size
from training.data.grouping import GroupedItems
from training.data.record import Filtered, Record, Round
from training.data.report import Report
from training.data.source import ImagesOptions, Source, boxes_array, find_image, image_size
from training.data.texts import plain, readable, sentence

CHOICES = ("answer", "rationale")  # forms of multiple choice
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class VcrOptions(ImagesOptions):
    """Options of VCR; its annotations are train.jsonl or val.jsonl, its images vcr1images."""

    form: str = setting(dataclasses.MISSING, "all lists every object of the image before the question; single and "
                        "multi mark only the one, or the several, that the question names; answer and rationale are "
                        "the multiple-choice forms Q→A and QA→R.", choices=("all", "single", "multi", *CHOICES))
    max_regions: int = setting(100, "Objects that an image may have.", at_least=1)
    per_visit: int = setting(4, "Questions about one image that make one visit; an image with more makes several.",
                             at_least=1)


class Vcr(Source):
    """Entry: image, boxes, names, and for each question its three texts with `{K}` for object K, or its choices."""

    kind = "vcr"
    options_type = VcrOptions

    @override
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        options = self.options
        # Questions about one image follow one another.
        locate = lru_cache(maxsize=1)(partial(self._locate, report))
        with GroupedItems() as grouped, options.annotations.open("rb") as file:
            for number, line in enumerate(file, 1):
                report.read += 1
                with report.item(f"{options.annotations.name}:{number}"):
                    item = json.loads(line)
                    image = self._objects(item, *locate(item["img_fn"], item["metadata_fn"]))
                    question = choices(item) if options.form in CHOICES else texts(item)
                    if len(image["boxes"]) > options.max_regions:
                        raise Filtered(f"more than {options.max_regions} objects")
                    self._check_form(question)
                    # The objects belong to the image, but nothing in the format says so.
                    grouped.add(json.dumps(image), {"id": item.get("annot_id", item["img_fn"])} | question)
            for image, items in grouped.groups():
                for begin in range(0, len(items), options.per_visit):
                    yield json.loads(image) | {"items": items[begin:begin + options.per_visit]}

    def _locate(self, report: Report, image: str, metadata: str) -> tuple[str, tuple[int, int], np.ndarray]:
        """Path, size and boxes of an image."""
        path = find_image(self.options.images, image)
        try:
            objects = read_json(find_image(self.options.images, metadata))
        except OSError as error:
            raise ValueError(f"{metadata}: {error}") from error
        size = image_size(path, declared_size(objects), report)
        return path, size, np.asarray(objects["boxes"], np.float64)

    def _objects(self, item: dict[str, Any], path: str, size: tuple[int, int], boxes: np.ndarray) -> dict[str, Any]:
        names = [readable(plain(name, "object")) for name in item["objects"]]
        if boxes.ndim != 2 or boxes.shape[1] < 4 or len(boxes) != len(names):
            raise ValueError(f"{len(names)} objects but boxes of shape {list(boxes.shape)}")
        if not np.isfinite(boxes).all() or (boxes[:, 2:4] <= boxes[:, :2]).any():
            raise ValueError("a box has no area")
        if len(boxes) and boxes[:, :4].max() <= 1:
            raise ValueError(f"boxes are within 0..1, as if normalised: {boxes[0, :4].tolist()}; expected pixels")
        if (boxes[:, :2] >= size).any() or (boxes[:, 2:4] <= 0).any():
            raise ValueError(f"a box is outside the image of {size[0]}x{size[1]}")
        clipped = boxes[:, :4].clip(0, (*size, *size)).round(3)
        return {"image": path, "size": size, "boxes": clipped.tolist(), "names": names}

    def _check_form(self, question: dict[str, Any]) -> None:
        """Raises Filtered where a question does not suit the form."""
        form = self.options.form
        if form not in ("single", "multi"):
            return
        asked, answered = mentioned(question["question"]), mentioned(question["answer"])
        if form == "single" and len(asked) != 1:
            raise Filtered("question not about one object")
        if form == "multi" and len(asked) < 2:
            raise Filtered("question not about several objects")
        if not answered:
            raise Filtered("answer names no object")
        if not set(answered) <= set(asked):
            raise Filtered("answer names an object the question does not")

    def choices(self, position: int) -> list[Choice]:
        """The multiple-choice questions of one visit (forms "answer" and "rationale")."""
        entry = self.index[position]
        return [choice_of(entry, item, self.options.form) for item in entry["items"]]

    @override
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        if self.options.form in CHOICES:
            return [choice.record for choice in self.choices(position)]
        entry = self.index[position]
        # Listing the objects again before a second question would say nothing new.
        return [self._conversation(entry, item, rng, number == 0) for number, item in enumerate(entry["items"])]

    def _conversation(
        self, entry: dict[str, Any], item: dict[str, Any], rng: np.random.Generator, first: bool
    ) -> Record:
        names, question = entry["names"], ""
        if self.options.form == "all":
            region = {number: number for number in range(1, len(names) + 1)}
            if first and region:
                question = templates.pick(rng, templates.LISTED, regions=templates.region_list(list(region)))
            question += fill(item["question"], lambda k: f"{names[k - 1]} at <region{k}>")
        else:
            region = {k: place for place, k in enumerate(mentioned(item["question"]), 1)}
            question = fill(item["question"], lambda k: f"<region{region[k]}>")

        def named(text: str) -> str:
            return fill(text, lambda k: f"{names[k - 1]} at <region{region[k]}>")

        rounds = [Round(question, named(item["answer"]), "answer")]
        if set(mentioned(item["rationale"])) <= set(region):
            rounds.append(Round(templates.pick(rng, templates.WHY), named(item["rationale"]), "rationale"))
        boxes = boxes_array([entry["boxes"][k - 1] for k in region])
        return Record(entry["image"], boxes, tuple(rounds), f"vcr {item['id']}")


def texts(item: dict[str, Any]) -> dict[str, str]:
    """Question, answer and rationale, each reference to object K (1-based) written `{K}`."""
    count = len(item["objects"])
    for name in CHOICES:
        if not 0 <= item[f"{name}_label"] < len(item[f"{name}_choices"]):
            raise ValueError(f"{name}_label is {item[f'{name}_label']} among {len(item[f'{name}_choices'])} choices")
    pairs = {
        "question": (item["question_orig"], item["question"]),
        "answer": (item["answer_orig"], item["answer_choices"][item["answer_label"]]),
        "rationale": (item["rationale_orig"], item["rationale_choices"][item["rationale_label"]]),
    }
    return {name: align(plain(text, f"{name}_orig"), tokens, count) for name, (text, tokens) in pairs.items()}


def align(text: str, tokens: Sequence[Any], count: int) -> str:
    """``text`` with its object numbers as `{K}`, other numbers untouched.

    Args:
        text: As people read it, with numbers of objects in it.
        tokens: The token list of the same text.
        count: Objects in the image.

    Raises:
        Filtered: The numbers differ.
        ValueError: An index is out of range.
    """
    if not isinstance(tokens, list):
        raise ValueError(f"token list is {tokens!r}")
    found = list(_NUMBER.finditer(text))
    values = [int(match.group()) for match in found]
    references: list[bool] = []
    for token in tokens:
        if isinstance(token, list):
            # The list may have been sorted while the text says "3 and 1".
            here = values[len(references):len(references) + len(token)]
            if sorted(here) != sorted(1 + index for index in _indices(token, count)):
                raise Filtered("string and token list differ")
            references += [True] * len(token)
        else:
            for number in _NUMBER.findall(str(token)):
                if values[len(references):len(references) + 1] != [int(number)]:
                    raise Filtered("string and token list differ")
                references.append(False)
    if len(references) != len(found):
        raise Filtered("string and token list differ")
    pieces, end = [], 0
    for match, is_object in zip(found, references, strict=True):
        pieces += [_escape(text[end:match.start()]), f"{{{int(match.group())}}}" if is_object else match.group()]
        end = match.end()
    return "".join(pieces) + _escape(text[end:])


def _indices(token: list[Any], count: int) -> list[int]:
    if not token or not all(isinstance(index, int) and 0 <= index < count for index in token):
        raise ValueError(f"object indices {token} among {count} objects")
    return token


def _escape(text: str) -> str:
    return text.replace("{", "(").replace("}", ")")


def mentioned(text: str) -> list[int]:
    """The objects that `{K}` in ``text`` name, each once, in order."""
    return list(dict.fromkeys(int(number) for number in re.findall(r"\{(\d+)\}", text)))


def fill(text: str, name: Callable[[int], str]) -> str:
    """Replace every `{K}` by ``name(K)``, in one pass, so that what is put in is not replaced again."""
    return re.sub(r"\{(\d+)\}", lambda match: name(int(match.group(1))), text)


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question: ``record`` asks it and answers with the letter of ``options[label]``."""

    record: Record
    options: tuple[str, ...]
    label: int


def choices(item: dict[str, Any]) -> dict[str, Any]:
    """Question, answers and rationales with `{K}` for object K, from the token lists (indices there are 0-based)."""
    count = len(item["objects"])
    entry: dict[str, Any] = {"question": untokenise(item["question"], count), "options": {}, "labels": {}}
    for form in CHOICES:
        options, label = item[f"{form}_choices"], item[f"{form}_label"]
        if len(options) != len(templates.LETTERS) or not 0 <= label < len(options):
            raise ValueError(f"{len(options)} {form} choices with label {label}, expected four")
        entry["options"][form] = [untokenise(option, count) for option in options]
        entry["labels"][form] = label
    return entry


def untokenise(tokens: Sequence[Any], count: int) -> str:
    """A token list as text; a list of 0-based object indices becomes "{1} and {3}"."""
    words = []
    for token in tokens:
        if isinstance(token, list):
            words.append(" and ".join(f"{{{index + 1}}}" for index in _indices(token, count)))
        else:
            words.append(_escape(str(token)))
    return plain(sentence(words), "token list")


def choice_of(entry: dict[str, Any], item: dict[str, Any], form: str) -> Choice:
    """The Q→A (form "answer") or QA→R (form "rationale") question of an item that holds choices."""
    regions = templates.region_list(range(1, len(entry["names"]) + 1))

    def named(text: str) -> str:
        return fill(text, lambda k: f"<region{k}>")

    options = tuple(named(option) for option in item["options"][form])
    label = item["labels"][form]
    listing = templates.options_text(options)
    question = named(item["question"])
    if form == "answer":
        text = templates.CHOOSE_ANSWER.format(regions=regions, question=question, options=listing)
    else:
        answer = named(item["options"]["answer"][item["labels"]["answer"]])
        text = templates.CHOOSE_RATIONALE.format(regions=regions, question=question, answer=answer, options=listing)
    turn = Round(text, f"({templates.LETTERS[label]})", form)
    return Choice(Record(entry["image"], boxes_array(entry["boxes"]), (turn,), f"vcr {item['id']}"), options, label)
