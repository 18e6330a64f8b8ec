"""Tar shards: what was written comes back, shared out among processes and workers, in another order every epoch."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_fixtures as fixtures
from torch.utils.data import DataLoader

from ros_gpt4roi.model.checkpoint import read_config
from ros_gpt4roi.paths import find_model
from training.data import open_dataset
from training.data.mixture import open_mixture
from training.data.record import RecordError
from training.data.shards import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    mixture = open_mixture(fixtures.section(folder), seed=3)
    return mixture, write_shards(mixture, folder / "tar", epochs=1, per_shard=3)


def open_shards(files, limit: int = 0) -> Any:
    values = {"kind": "shards", "index": str(files[0].parent / "index.json"), "malformed_limit": limit}
    return open_dataset(values, Path(), 0, read_config(find_model("tabletop")))


def told(record) -> str:
    return record.source + str(record.rounds)


def test_every_visit_comes_back_as_it_was(shards):
    mixture, files = shards
    assert len(files) == 5
    written = {told(record): record for record in (mixture[p] for p in range(len(mixture)))}
    back = list(open_shards(files).records(0))
    assert len(back) == len(mixture)
    for record in back:
        original = written[told(record)]
        assert np.array_equal(record.image, original.image) and np.allclose(record.boxes, original.boxes)


def test_the_epoch_decides_the_order_and_no_sample_is_lost(shards):
    dataset = open_shards(shards[1])
    orders = [[told(record) for record in dataset.records(epoch)] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize("shares", [1, 2, 3, 8, 14, 20])
def test_an_epoch_is_divided_evenly_whatever_the_number_of_shards(shards, shares):
    dataset = open_shards(shards[1])
    parts = [[told(record) for record in dataset.records(5, place, shares)] for place in range(shares)]
    assert sum(parts, []) == [told(record) for record in dataset.records(5)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_processes_and_their_workers_see_each_sample_once(shards, monkeypatch):
    dataset = open_shards(shards[1])
    monkeypatch.setenv("WORLD_SIZE", "7")
    seen = []
    for rank in range(7):
        monkeypatch.setenv("RANK", str(rank))
        # Fourteen samples, fourteen workers, five shards.
        loader = DataLoader(dataset, batch_size=None, num_workers=2, collate_fn=lambda sample: sample)
        seen += [str(sample.rounds) for sample in itertools.islice(loader, 2)]
    everything = sorted(str(record.rounds) for record in dataset.records(0))
    assert sorted(seen) == everything


def test_a_stream_has_no_end_and_a_rank_with_less_goes_on_with_the_next_epoch(shards):
    dataset = open_shards(shards[1])
    two = [str(record.rounds) for epoch in (0, 1) for record in dataset.records(epoch)]
    assert [str(sample.rounds) for sample in itertools.islice(dataset, len(two))] == two


def test_an_index_that_promises_more_than_there_is_is_an_error(shards, tmp_path):
    for path in shards[1]:
        shutil.copy(path, tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"shards": [["shard-000000.tar", 3], ["shard-000001.tar", 4]]}))
    with pytest.raises(RecordError, match="shard-000001.tar: only 3 samples, but the index says 4"):
        list(open_shards([tmp_path / "x"]).records(0))


@pytest.mark.parametrize("content", [None, "[]", "no JSON", '{"shards": []}'])
def test_an_unusable_index_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(RecordError, match="index.json"):
        open_shards([tmp_path / "x"])


def test_shards_are_not_mixed_with_older_ones(shards):
    mixture, files = shards
    with pytest.raises(RecordError, match="has shards already"):
        write_shards(mixture, files[0].parent, 1, 3)


ANNOTATION = {"rounds": [["Q?", "A.", ""]], "boxes": [], "source": "x"}


def write_tar(path: Path, samples: list[tuple[bytes, bytes]]) -> None:
    """A shard of (picture, annotation) and its index."""
    with tarfile.open(path, "w") as file:
        for number, contents in enumerate(samples):
            for ending, content in zip(("jpg", "json"), contents, strict=True):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    (path.parent / "index.json").write_text(json.dumps({"shards": [[path.name, len(samples)]]}))


def test_a_malformed_sample_is_named(tmp_path):
    path = tmp_path / "shard-000000.tar"
    write_tar(path, [(b"no picture", b'{"rounds": [], "boxes": [], "source": "x"}')])
    with pytest.raises(RecordError, match="shard sample 0"):
        list(open_shards([path]).records(0))


def test_malformed_samples_are_counted_once_and_left_out_up_to_the_limit(tmp_path):
    path, annotation = tmp_path / "shard-000000.tar", json.dumps(ANNOTATION).encode()
    good = fixtures.image(tmp_path / "good.png").read_bytes()
    annotations = (b"{", b"[]", b"{}", b"\xff", json.dumps(ANNOTATION | {"rounds": [[1, 2, ""]]}).encode(),
                   json.dumps(ANNOTATION | {"boxes": [[1, 2], [3]]}).encode())
    bad = [(content, annotation) for content in fixtures.BROKEN_PICTURES.values()] + [(good, a) for a in annotations]
    write_tar(path, [(good, annotation), *bad, (good, annotation)])
    dataset = open_shards([path], limit=len(bad))
    assert [len(list(dataset.records(epoch))) for epoch in range(3)] == [2, 2, 2]
    assert dataset.malformed.malformed == len(bad)
    with pytest.raises(RecordError, match="shard-000000.tar: shard sample"):
        list(open_shards([path], limit=len(bad) - 1).records(0))


@pytest.mark.parametrize("keep", [0, 700, 2500])
def test_a_damaged_shard_is_named(shards, tmp_path, keep):
    content = shards[1][0].read_bytes()
    (tmp_path / "shard-000000.tar").write_bytes(content[:keep] + b"\xff" * (700 if keep else 0))
    (tmp_path / "index.json").write_text(json.dumps({"shards": [["shard-000000.tar", 3]]}))
    with pytest.raises(RecordError, match="shard-000000.tar: "):
        list(open_shards([tmp_path / "x"]).records(0))
