"""Writes probes: questions about pictures with known answers, which a model's folder carries for `load_model`."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ros_gpt4roi.image_file import encode_image
from ros_gpt4roi.regular_file import write_whole
from ros_gpt4roi.runtime.probes import PROBES_FILE
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.sim.studio import RendererError
from training.data.mixture import MixtureDataset
from training.data.record import REFERENCE
from training.errors import tells_errors

_QUALITY = 92
_WORDS = 4  # of an answer that another one can be expected to contain
_BOX = re.compile(r"<box\d+>")

Question = tuple[str, Sequence[str]]  # its text, regions as "region 1", and the right answers
Picture = tuple[np.ndarray, Sequence[Sequence[float]], Sequence[Question]]  # uint8 RGB [H, W, 3], boxes in pixels


def write_probes(folder: Path, pictures: Iterable[Picture]) -> int:
    """Write `probes.json` and its pictures, in place of those that are there.

    Args:
        folder: The model's `probes`.
        pictures: Each with its boxes and the questions about it; one without any is left out.

    Returns:
        How many questions were written.
    """
    entries: list[dict[str, Any]] = []
    encoded: dict[str, bytes] = {}
    for image, boxes, questions in pictures:
        if questions:
            name = f"{len(entries)}.jpg"
            encoded[name] = encode_image(image, quality=_QUALITY)
            entries.append({"image": name, "boxes": np.round(np.asarray(boxes, float), 1).tolist(),
                            "questions": [{"text": text, "answers": list(answers)} for text, answers in questions]})
    # Only now, and only what is known to be of probes: the pictures may fail, and the folder may be a wrong one.
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("*.jpg"):
        if earlier.stem.isdecimal():
            earlier.unlink()
    for name, content in encoded.items():
        write_whole(folder / name, content)
    write_whole(folder / PROBES_FILE.name, (json.dumps({"probes": entries}, indent=1) + "\n").encode())
    return sum(len(entry["questions"]) for entry in entries)


def command(world: str, write: Callable[[Path, int], None], arguments: Sequence[str] | None) -> int:
    """The command line that writes probes of a simulated world; returns the exit status.

    Args:
        world: Its name.
        write: (folder, how many pictures) → nothing.
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(prog=f"python -m training.evaluation.{world}_probes",
                                     description=f"write probes of the {world}: questions with known answers")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="made where it is missing")
    parser.add_argument("--scenes", type=int, default=8, metavar="N", help="pictures (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.scenes < 1:
        parser.error(f"--scenes {options.scenes}: expected at least 1")

    @tells_errors(AssetsError, RendererError, OSError)
    def run(_: Sequence[str] | None) -> int:
        write(options.out, options.scenes)
        return 0

    return run(arguments)


def dataset_probes(samples: MixtureDataset, pictures: int) -> Iterable[Picture]:
    """Make probes of a data set: the questions of its first pictures whose answers are a few words.

    Args:
        samples: A recipe's validation data.
        pictures: How many to look at.

    Yields:
        Each picture with its boxes and questions. A question by the bare region token is none that people ask.
    """
    for position in range(min(pictures, len(samples))):
        record = samples.mixture[position]
        assert isinstance(record.image, np.ndarray)
        rounds = [(turn.question, turn.answer) for turn in record.rounds
                  if 0 < len(re.findall(r"\w+", turn.answer)) <= _WORDS
                  and not _BOX.search(turn.question + turn.answer) and "\n" not in turn.question]
        yield record.image, record.boxes.tolist(), [(spoken(question), [spoken(answer)]) for question, answer in rounds]


def spoken(text: str) -> str:
    """A text with its regions as people call them: "region 1"."""
    return REFERENCE.sub(lambda match: f"region {match[2]}", text)
