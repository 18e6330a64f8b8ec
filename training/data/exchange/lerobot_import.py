"""The questions about pictures of a LeRobot dataset v3 to records: its language events of the style vqa."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ros_gpt4roi.image_file import MAX_PIXELS, encode_image, read_header, read_image
from ros_gpt4roi.regular_file import read_json
from training.data.exchange import lerobot_format as lerobot
from training.data.record import Filtered, RecordError
from training.data.record_file import RecordWriter, from_json, parts_of
from training.data.report import Report
from training.errors import training_packages

with training_packages():
    import av
    from pyarrow import ArrowException, parquet

_BATCH = 16  # rows that are held in memory
_ROW_GROUP_BYTES = 2 << 30
_TURN = re.compile(r"^([QA]): ", re.MULTILINE)
_SOURCE = "lerobot"

Json = dict[str, Any]


class _Frame(NamedTuple):
    """A picture with its questions and answers, in their order."""

    picture: bytes
    where: dict[str, str]
    asked: list[tuple[str, str]]


def import_lerobot(dataset: Path, out: Path, report: Report) -> None:
    """Make a folder of pictures and records of a LeRobot dataset.

    Frames of which nothing is asked are left out. Frames that follow each other with the same picture become one
    record.

    Args:
        dataset: Its folder, with meta/info.json.
        out: Folder to make.
        report: Counts what is read and what is left out.

    Raises:
        RecordError: It is no such dataset or holds no questions, or the folder has records already.
    """
    frames = _Dataset(dataset, report).frames()
    with RecordWriter(out) as writer:
        last: _Frame | None = None
        for frame in frames:
            if last and last.picture == frame.picture:
                last = last._replace(asked=last.asked + frame.asked)
                continue
            if last:
                _write(last, writer, report)
            last = frame
        if last:
            _write(last, writer, report)
        if not report.kept:
            raise RecordError(f"{dataset} has no frame with questions of the style {lerobot.VQA} that can be used")


def _write(frame: _Frame, writer: RecordWriter, report: Report) -> None:
    where = f"episode {frame.where['episode']}, frame {frame.where['frame']}"
    with report.item(where):
        header = read_header(frame.picture)
        said = _Said((header.width, header.height), report)
        read = []
        for question, text in frame.asked:
            with report.item(where):
                read.append((question, _answer(text)))
        for question, answer in sorted(read, key=lambda pair: "detections" not in pair[1]):  # boxes first
            with report.item(where):
                said.add(question, answer)
        suffix = "png" if frame.picture.startswith(b"\x89PNG") else "jpg"
        record = from_json(
            {"file": writer.add_picture(f"{report.kept:06d}.{suffix}", frame.picture), "width": header.width,
             "height": header.height, "regions": said.regions, "origin": frame.where, "conversations": [
                 {"rounds": rounds, "source": _SOURCE} for rounds in said.conversations]},
            parts_of(report, where))
        writer.write(record)
        report.kept += 1
        report.count("regions", len(record.regions))
        report.count("conversations", len(record.conversations))


def _answer(text: str) -> Json:
    """An answer's fields; one that is no JSON object is an answer in words."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"attribute": lerobot.ANSWER, "value": text}


class _Said:
    """What questions and answers say about one picture: regions and conversations, as a record has them in JSON."""

    def __init__(self, size: tuple[int, int], report: Report):
        self.regions: list[Json] = []
        self.conversations: list[list[list[str]]] = []
        self._size, self._report = size, report
        self._located: dict[str, Json] = {}

    def add(self, question: str, answer: Json) -> None:
        if "detections" in answer:
            for found in answer["detections"]:
                with self._report.item(f"box of {str(found)[:80]}"):
                    self._add_region(found)
            if question != lerobot.OBJECTS_QUESTION:
                self._report.note("question answered by boxes, which alone are kept")
        elif "point" in answer:
            raise Filtered("question answered by a point")
        elif "attribute" in answer:
            named = [region for text, region in self._located.items() if text in question]
            if answer["attribute"] != lerobot.ANSWER and len(named) == 1:
                self._add_attribute(named[0], str(answer["attribute"]), answer["value"])
            else:
                self._add_round(question, answer["value"])
        elif "count" in answer:
            self._add_round(question, str(answer["count"]))
        elif "relation" in answer:
            relation = str(answer["relation"]).replace("_", " ")
            self._add_round(question, f"{answer['subject']} {relation} {answer['object']}")
        else:
            raise ValueError(f"answer {str(answer)[:80]} has none of the shapes that LeRobot names")

    def _add_region(self, found: Any) -> None:
        if not isinstance(found, dict):
            raise ValueError(f"it is {str(found)[:80]}, expected an object")
        if found.get("bbox_format", "xyxy") != "xyxy":
            raise ValueError(f"bbox_format is {str(found['bbox_format'])[:40]!r}, expected xyxy")
        box = np.asarray(found["bbox"], np.float64)
        if box.shape != (4,) or not np.isfinite(box).all():
            raise ValueError(f"bbox is {str(found['bbox'])[:80]}, expected four numbers")
        inside = np.clip(box, 0, [*self._size, *self._size])
        if (inside[2:] <= inside[:2]).any():
            raise ValueError(f"bbox {box.tolist()} is empty or outside of the picture")
        label = found["label"]
        region = {"id": str(len(self.regions) + 1), "box": inside.tolist(), "source": _SOURCE,
                  "name": "" if label == lerobot.UNNAMED else label}
        if (text := lerobot.located(label, tuple(box))) not in self._located:
            self._located[text] = region
            self.regions.append(region)

    def _add_attribute(self, region: Json, attribute: str, value: str) -> None:
        if attribute == lerobot.DESCRIPTION:
            region["description"] = value
        else:
            region.setdefault("attributes", {})[attribute] = value

    def _add_round(self, question: str, answer: Any) -> None:
        before, *parts = _TURN.split(question)
        asked = [text.strip() for text in parts[1::2]]
        if before or not asked or "".join(parts[::2]) != ("QA" * len(asked))[:len(asked)] or len(asked) % 2 == 0:
            asked = [question]  # and no transcript of the rounds before it
        texts = [self._mentions(text) for text in (*asked, answer)]
        rounds = [texts[place:place + 2] for place in range(0, len(texts), 2)]
        if self.conversations and self.conversations[-1] == rounds[:-1]:
            self.conversations.pop()
        self.conversations.append(rounds)

    def _mentions(self, text: str) -> str:
        for located, region in sorted(self._located.items(), key=lambda item: -len(item[0])):
            text = text.replace(located, f"<region {region['id']}>")
        return text


class _Dataset:
    """The files of a dataset."""

    def __init__(self, root: Path, report: Report):
        self._root, self._report = root, report
        try:
            info = read_json(root / lerobot.INFO)
            self._fps = float(info["fps"])
            self._kinds = {str(name): feature["dtype"] for name, feature in info["features"].items()}
            version = str(info["codebase_version"])
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise RecordError(f"{root / lerobot.INFO} cannot be read as that of a LeRobot dataset: {error}") from error
        if not version.startswith("v3."):
            raise RecordError(f"{root} is a dataset of version {version[:20]!r}, expected {lerobot.VERSION}")
        if lerobot.EVENTS not in self._kinds:
            raise RecordError(f"{root} has no column {lerobot.EVENTS}, where LeRobot keeps questions and answers")
        self._videos = self._find_videos()

    def frames(self) -> Iterator[_Frame]:
        """Yields frames with questions; memory holds some of a file's rows."""
        cameras = [name for name, kind in self._kinds.items() if kind == "image"]
        columns = ["timestamp", "frame_index", "episode_index", lerobot.EVENTS, *cameras]
        for path in sorted((self._root / "data").glob("*/*.parquet")):
            with self._report.item(str(path)):
                for row in self._rows(path, columns):
                    self._report.read += 1
                    yield from self._of_row(row)

    def _rows(self, path: Path, columns: list[str]) -> Iterator[Json]:
        try:
            with parquet.ParquetFile(path, pre_buffer=False) as file:
                for group in range(file.num_row_groups):
                    if (size := file.metadata.row_group(group).total_byte_size) > _ROW_GROUP_BYTES:
                        raise ValueError(f"row group {group} has {size} bytes, expected at most {_ROW_GROUP_BYTES}")
                for batch in file.iter_batches(_BATCH, columns=columns):
                    yield from batch.to_pylist()
        except (OSError, ArrowException) as error:
            raise ValueError(f"cannot be read from here on: {str(error)[:200]}") from error

    def _of_row(self, row: Json) -> Iterator[_Frame]:
        where = {"lerobot": self._root.name, "episode": str(row["episode_index"]), "frame": str(row["frame_index"])}
        cameras: dict[str, dict[str, list[str]]] = {}
        for event in row[lerobot.EVENTS] or []:
            if event["style"] == lerobot.VQA:
                texts = cameras.setdefault(event["camera"], {"user": [], "assistant": []})
                texts.setdefault(event["role"], []).append(event["content"])
            else:
                self._report.filter(f"event of the style {event['style']}")
        if not cameras:
            self._report.filter("frame of which nothing is asked")
        for camera, texts in cameras.items():
            with self._report.item(f"episode {where['episode']}, frame {where['frame']}"):
                questions, answers = texts["user"], texts["assistant"]
                if len(questions) != len(answers) or not all((*questions, *answers)):
                    raise ValueError(f"questions {questions} and answers {answers} make no pairs")
                yield _Frame(self._picture(camera, row), where | {"camera": camera}, list(zip(questions, answers)))

    def _picture(self, camera: str, row: Json) -> bytes:
        kind = self._kinds.get(camera)
        if kind == "image":
            content = row[camera]["bytes"] if row[camera] else None
            if not content:
                raise ValueError(f"{camera} has no picture in the file")
            return content if content.startswith((b"\x89PNG", b"\xff\xd8")) else encode_image(read_image(content))
        if kind == "video":
            video, start = self._videos[camera, row["episode_index"]]
            return encode_image(_video_frame(video, start + row["timestamp"], 0.5 / self._fps))
        raise ValueError(f"{str(camera)[:80]!r} is no camera of the dataset")

    def _find_videos(self) -> dict[tuple[str, int], tuple[Path, float]]:
        """The video of each camera and episode, and where in it the episode begins, seconds."""
        found = {}
        cameras = [name for name, kind in self._kinds.items() if kind == "video"]
        if any(part in ("", ".", "..") for name in cameras for part in name.split("/")):
            raise RecordError(f"{self._root / lerobot.INFO} names cameras {cameras} that lead out of the folder")
        parts = "chunk_index", "file_index", "from_timestamp"
        columns = [f"videos/{camera}/{part}" for camera in cameras for part in parts]
        for path in sorted((self._root / "meta/episodes").glob("*/*.parquet")) if cameras else ():
            with self._report.item(str(path)):
                for row in self._rows(path, ["episode_index", *columns]):
                    for camera in cameras:
                        chunk, file, start = (row[f"videos/{camera}/{part}"] for part in parts)
                        video = self._root / lerobot.numbered(f"videos/{camera}", chunk, file, "mp4")
                        found[camera, row["episode_index"]] = video, start
        return found


def _video_frame(path: Path, seconds: float, tolerance: float) -> np.ndarray:
    """The frame of a video at a time, RGB."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise ValueError(f"{path} has frames of {stream.width}x{stream.height}, over {MAX_PIXELS} pixels")
            if stream.time_base is None:
                raise ValueError(f"{path} does not say how long a tick of its clock is")
            container.seek(max(0, int((seconds - tolerance) / stream.time_base)), stream=stream)
            for frame in container.decode(stream):
                if frame.time is not None and abs(frame.time - seconds) <= tolerance:
                    return frame.to_ndarray(format="rgb24")
                if frame.time is not None and frame.time > seconds + tolerance:
                    break
    except (OSError, av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a video: {error}") from error
    raise ValueError(f"{path} has no frame at {seconds:.3f} s")
