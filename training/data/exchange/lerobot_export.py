"""Records to a dataset of LeRobot: pictures as frames, what is said of them as its questions about one picture."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ros_gpt4roi.image_file import encode_image, read_image
from ros_gpt4roi.regular_file import read_regular
from training.data.exchange import lerobot_format as lerobot
from training.data.record import Filtered, RecordError
from training.data.record_file import FILE, MENTION, PictureRecord, RegionRecord, picture_path, read_records, rejected
from training.data.report import Report
from training.errors import training_packages

with training_packages():
    import pyarrow
    from pyarrow import parquet

_TASK = "Answer questions about the picture."
_FPS = 1  # in name only: the pictures are no film
_EPISODE_FRAMES, _EPISODE_BYTES = 500, 64 << 20  # of an episode, which is held in memory
_FILE_BYTES = 100 << 20
_FILES = 1000  # in a chunk
_PICTURE_BYTES = 256 << 20
_PROBE = (64, 64)  # what pictures are scaled to for their statistics

Rows = list[dict[str, Any]]


def export_lerobot(folder: Path, out: Path, report: Report) -> None:
    """Write the records of a folder as a LeRobot dataset v3.

    A frame has one question and its answer at most, as LeRobot expects, so a picture is written once for each: for
    where its regions are, each attribute and description, and each round of a conversation.

    Args:
        folder: With records.jsonl.
        out: Folder to make.
        report: Counts what is written and what is left out.

    Raises:
        RecordError: The records cannot be read, none can be used, or ``out`` exists.
    """
    if out.exists():
        raise RecordError(f"{out} exists already; name another folder")
    sizes = Counter((record.width, record.height) for record in read_records(folder / FILE, Report(0)))
    if not sizes:
        raise RecordError(f"{folder / FILE} has no records")
    size = sizes.most_common(1)[0][0]
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    writer = _Writer(unfinished, size)
    for record in read_records(folder / FILE, report):
        with report.item(record.file):
            if (record.width, record.height) != size:
                raise Filtered(f"picture of another size than {size[0]}x{size[1]}, which most have")
            path = picture_path(folder, record.file)
            content, pixels = _picture(path, size)
            writer.add(record.origin.get("bag", ""), content, pixels, list(_questions(record, report)))
            report.kept += 1
            report.count("regions", len(record.regions))
    if not report.kept:
        raise RecordError(f"no picture of {folder} can be used: {'; '.join(report.errors[:3])}")
    writer.close()
    report.count("frames", writer.frames)
    report.count("episodes", writer.episodes)
    unfinished.rename(out)


def _picture(path: Path, size: tuple[int, int]) -> tuple[bytes, np.ndarray]:
    """A picture as every reader decodes it alike, and its pixels."""
    pixels = read_image(path)
    if pixels.shape[1::-1] != size:
        raise ValueError(f"picture is {pixels.shape[1]}x{pixels.shape[0]}, but its record says {size[0]}x{size[1]}")
    with Image.open(path) as image:
        plain = image.format in ("JPEG", "PNG") and image.mode == "RGB" and "exif" not in image.info
    if plain:
        return read_regular(path, _PICTURE_BYTES), pixels
    return encode_image(pixels, "PNG"), pixels


def _questions(record: PictureRecord, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Questions about a picture with their answers, in the shapes that LeRobot knows."""
    judged = [part.judgements for part in record.regions] + [part.judgements for part in record.conversations]
    for _ in filter(None, judged):
        report.note("region or conversation whose judgements LeRobot has no place for")
    names = {region.id: lerobot.located(region.name, region.box) for region in record.regions}
    if record.regions:
        yield lerobot.OBJECTS_QUESTION, {"detections": [
            {"label": region.name or lerobot.UNNAMED, "bbox_format": "xyxy", "bbox": [
                float(f"{side:.6g}") for side in region.box]} for region in record.regions]}
    for region in record.regions:
        if region.mask is not None:
            report.note("region whose mask LeRobot has no place for")
        for attribute, value in _known(region):
            question = f"What is the {attribute} of {names[region.id]}?"
            yield question, {"label": region.name or lerobot.UNNAMED, "attribute": attribute, "value": value}
    for number, conversation in enumerate(record.conversations, 1):
        with report.item(f"{record.file}: conversation {number}"):
            if rejected(conversation.judgements):
                raise Filtered("conversation that a person called wrong")
            turns = [tuple(MENTION.sub(lambda match: names[match[1]], text) for text in turn)
                     for turn in conversation.rounds]
            for place, (question, answer) in enumerate(turns):
                before = "".join(f"Q: {asked}\nA: {said}\n" for asked, said in turns[:place])
                yield (f"{before}Q: {question}" if before else question), {
                    "label": "picture", "attribute": lerobot.ANSWER, "value": answer}


def _known(region: RegionRecord) -> Iterator[tuple[str, str]]:
    yield from region.attributes.items()
    if region.description and not rejected(region.judgements):
        yield lerobot.DESCRIPTION, region.description


class _Writer:
    """Writes the files of a dataset episode by episode; memory holds one episode."""

    def __init__(self, root: Path, size: tuple[int, int]):
        self.frames = self.episodes = 0
        self._root, self._size = root, size
        self._rows: Rows = []
        self._bytes = self._file = self._written = 0
        self._source = ""
        self._data: parquet.ParquetWriter | None = None
        self._episodes: Rows = []
        self._pixels: list[np.ndarray] = []  # least, greatest, mean and mean square of each channel of each picture

    def add(self, source: str, content: bytes, pixels: np.ndarray, questions: list[tuple[str, Any]]) -> None:
        frames = max(1, len(questions))
        full = len(self._rows) + frames > _EPISODE_FRAMES or self._bytes + frames * len(content) > _EPISODE_BYTES
        if self._rows and (full or source != self._source):
            self._end_episode()
        self._source = source
        probe = cv2.resize(pixels, _PROBE, interpolation=cv2.INTER_AREA).reshape(-1, 3) / 255
        self._pixels.append(np.stack([probe.min(0), probe.max(0), probe.mean(0), (probe ** 2).mean(0)]))
        asked: tuple[str, Any] | None
        for asked in questions or (None,):
            self._rows.append({
                lerobot.CAMERA: {"bytes": content, "path": None}, "timestamp": len(self._rows) / _FPS,
                "frame_index": len(self._rows), "episode_index": self.episodes, "index": self.frames, "task_index": 0,
                lerobot.PERSISTENT: [], lerobot.EVENTS: _events(*asked) if asked else []})
            self.frames += 1
            self._bytes += len(content)

    def _end_episode(self) -> None:
        if self._data is None:
            path = self._root / lerobot.numbered("data", *divmod(self._file, _FILES))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = parquet.ParquetWriter(path, lerobot.SCHEMA)
        chunk, file = divmod(self._file, _FILES)
        self._data.write_table(pyarrow.Table.from_pylist(self._rows, lerobot.SCHEMA))
        self._episodes.append({
            "episode_index": self.episodes, "tasks": [_TASK], "length": len(self._rows), "data/chunk_index": chunk,
            "data/file_index": file, "dataset_from_index": self.frames - len(self._rows),
            "dataset_to_index": self.frames, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        self.episodes += 1
        self._written += self._bytes
        if self._written > _FILE_BYTES:
            self._data.close()
            self._data, self._file, self._written = None, self._file + 1, 0
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        """Write what is left, and what describes the whole."""
        self._end_episode()
        if self._data is not None:
            self._data.close()
        for folder in ("meta", "meta/episodes/chunk-000"):
            (self._root / folder).mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(self._episodes),
                            self._root / lerobot.numbered("meta/episodes", 0, 0))
        parquet.write_table(_tasks(), self._root / lerobot.TASKS)
        (self._root / lerobot.INFO).write_text(json.dumps(self._info(), indent=4))
        (self._root / lerobot.STATS).write_text(json.dumps(self._stats(), indent=4))

    def _info(self) -> dict[str, Any]:
        width, height = self._size
        features: dict[str, Any] = {lerobot.CAMERA: {
            "dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]}}
        features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in (
            ("timestamp", "float32"), ("frame_index", "int64"), ("episode_index", "int64"), ("index", "int64"),
            ("task_index", "int64"), (lerobot.PERSISTENT, "language"), (lerobot.EVENTS, "language"))}
        return {"codebase_version": lerobot.VERSION, "fps": _FPS, "features": features,
                "total_episodes": self.episodes, "total_frames": self.frames, "total_tasks": 1, "chunks_size": _FILES,
                "data_files_size_in_mb": _FILE_BYTES >> 20, "video_files_size_in_mb": 200,
                "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "video_path": None,
                "robot_type": None, "splits": {"train": f"0:{self.episodes}"}}

    def _stats(self) -> dict[str, Any]:
        """Of the pictures: of each channel, from 0 to 1, pictures counted once."""
        found = np.stack(self._pixels)
        mean = found[:, 2].mean(0)
        spread = np.sqrt(np.maximum(found[:, 3].mean(0) - mean ** 2, 0))
        values = {"min": found[:, 0].min(0), "max": found[:, 1].max(0), "mean": mean, "std": spread}
        stats = {name: value.reshape(3, 1, 1).tolist() for name, value in values.items()}
        return {lerobot.CAMERA: {**stats, "count": [len(found)]}}


def _events(question: str, answer: dict[str, Any]) -> Rows:
    return [{"role": role, "content": text, "style": lerobot.VQA, "camera": lerobot.CAMERA, "tool_calls": None}
            for role, text in (("assistant", json.dumps(answer, ensure_ascii=False, sort_keys=True)),
                               ("user", question))]


def _tasks() -> pyarrow.Table:
    """The one task; its text is the index of the table, as pandas stores one."""
    columns = [{"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
               for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))]
    described = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.3.3"}
    table = pyarrow.table({"task_index": pyarrow.array([0], pyarrow.int64()), "task": [_TASK]})
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
