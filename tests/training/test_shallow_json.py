"""JSON that is nested too deeply is refused before a parser has kept its levels; all else comes through unchanged."""

from __future__ import annotations

import io
import json

import ijson
import numpy as np
import pytest
import training_fixtures as fixtures

from training.data.coco import Coco
from training.data.coco_format import stream
from training.data.record import RecordError
from training.data.shallow_json import DEPTH, ShallowJson
from training.data.shards import ShardDataset


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


class Endless(io.RawIOBase):
    """A file that opens one list in another without end, and counts what was read of it."""

    taken = 0

    def read(self, size: int = -1) -> bytes:
        self.taken += size
        return b"[" * size


@pytest.mark.parametrize("piece", [1, 2, 7, 1 << 16])
def test_brackets_in_strings_are_no_levels_however_the_file_is_cut(piece):
    rng = np.random.default_rng(0)
    letters = ['"', "\\", "[", "]", "{", "}", "a", "é", "\n"]
    texts = ["".join(rng.choice(letters, rng.integers(0, 40))) for _ in range(300)] + ["[" * 3 * DEPTH]
    content = [{text: [text, nested(2), {"x": 1}]} for text in texts]
    for escaped in (True, False):
        file = ShallowJson(io.BytesIO(json.dumps(content, ensure_ascii=escaped).encode()))
        assert list(ijson.items(file, "item", buf_size=piece)) == content


@pytest.mark.parametrize("piece", [1, 64, 1 << 16])
def test_the_level_counts_that_is_open(piece):
    whole = json.dumps([json.loads(nested(DEPTH - 1))] * 50).encode()
    file = ShallowJson(io.BytesIO(whole))
    assert b"".join(iter(lambda: file.read(piece), b"")) == whole
    with pytest.raises(ValueError, match=f"more than {DEPTH} levels"):
        ShallowJson(io.BytesIO(b"[" * (DEPTH + 1))).read(DEPTH + 1)


def test_no_more_than_a_piece_is_read_of_what_never_ends():
    file = Endless()
    with pytest.raises(ValueError, match="levels deep"):
        list(ijson.items(ShallowJson(file), "item"))
    assert file.taken <= 1 << 17


def test_a_deep_annotation_file_names_itself(tmp_path):
    values = fixtures.coco(tmp_path)
    values["annotations"].write_text('{"images": [' + nested(DEPTH) + "]}")
    with pytest.raises(RecordError, match=f"instances_train2017.json: .*nested more than {DEPTH} levels"):
        fixtures.source(Coco, values, tmp_path)
    with pytest.raises(RecordError, match="levels deep"):
        list(stream(values["annotations"], "images.item"))


def test_a_deep_index_of_shards_is_refused(tmp_path):
    (tmp_path / "index.json").write_text(nested(100_000))
    with pytest.raises(RecordError, match="index.json: .*Recursion"):
        ShardDataset(str(tmp_path / "index.json"), 0, None)
