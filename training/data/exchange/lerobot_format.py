"""What LeRobot's dataset format v3 and its language columns are made of: names, paths and types.

The format is described at https://huggingface.co/docs/lerobot/lerobot-dataset-v3, the language columns at
https://huggingface.co/docs/lerobot/language_and_recipes.
"""

from __future__ import annotations

from training.errors import training_packages

with training_packages():
    import pyarrow

VERSION = "v3.0"
EVENTS, PERSISTENT = "language_events", "language_persistent"
CAMERA = "observation.images.camera"
VQA = "vqa"  # the style of questions about one picture, each answered by a JSON object
OBJECTS_QUESTION = "Which objects are in the picture, and where?"
UNNAMED = "region"  # the label of a region without a name
DESCRIPTION, ANSWER = "description", "answer"  # as "attribute" of answers in words
INFO, TASKS, STATS = "meta/info.json", "meta/tasks.parquet", "meta/stats.json"

_ROW = [("role", pyarrow.string()), ("content", pyarrow.string()), ("style", pyarrow.string())]
_END = [("camera", pyarrow.string()), ("tool_calls", pyarrow.list_(pyarrow.string()))]
SCHEMA = pyarrow.schema([
    (CAMERA, pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
    ("timestamp", pyarrow.float32()), ("frame_index", pyarrow.int64()), ("episode_index", pyarrow.int64()),
    ("index", pyarrow.int64()), ("task_index", pyarrow.int64()),
    (PERSISTENT, pyarrow.list_(pyarrow.struct([*_ROW, ("timestamp", pyarrow.float32()), *_END]))),
    (EVENTS, pyarrow.list_(pyarrow.struct([*_ROW, *_END])))])


def numbered(folder: str, chunk: int, file: int, suffix: str = "parquet") -> str:
    """The path of a file of data, episodes or video frames, such as data/chunk-000/file-000.parquet."""
    return f"{folder}/chunk-{chunk:03d}/file-{file:03d}.{suffix}"


def located(label: str, box: tuple[float, ...]) -> str:
    """How questions speak of a region: what it is and its box, as in "mug [34, 108, 90, 163]"."""
    return f"{label or UNNAMED} [{', '.join(f'{side:.6g}' for side in box)}]"
