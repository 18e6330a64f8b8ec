"""Tar shards: what was written comes back, shared out among workers, in an order that the epoch changes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import training_fixtures as fixtures
from torch.utils.data import DataLoader

from ros_gpt4roi.model.config import preset
from training.data import open_dataset
from training.data.mixture import open_mixture
from training.data.record import RecordError
from training.data.shards import ShardDataset, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    mixture = open_mixture(fixtures.section(folder), seed=3)
    return mixture, write_shards(mixture, folder / "tar", epochs=1, per_shard=3)


def open_shards(files) -> ShardDataset:
    values = {"kind": "shards", "urls": [str(path) for path in files]}
    return open_dataset(values, Path(), 0, "long", preset("tabletop").preprocess)


def test_every_visit_comes_back_as_it_was(shards):
    mixture, files = shards
    assert len(files) == 5
    written = {record.source + str(record.rounds): record for record in (mixture[p] for p in range(len(mixture)))}
    back = list(open_shards(files).records())
    assert len(back) == len(mixture)
    for record in back:
        original = written[record.source + str(record.rounds)]
        assert np.array_equal(record.image, original.image) and np.allclose(record.boxes, original.boxes)


def test_the_epoch_decides_the_order_and_no_sample_is_lost(shards):
    dataset = open_shards(shards[1])
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append([str(record.rounds) for record in dataset.records()])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_workers_share_the_shards_out(shards):
    dataset = open_shards(shards[1])
    alone = sorted(str(sample.rounds) for sample in dataset)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, collate_fn=lambda sample: sample)
    assert sorted(str(sample.rounds) for sample in loader) == alone


def test_shards_are_not_mixed_with_older_ones(shards):
    mixture, files = shards
    with pytest.raises(RecordError, match="has shards already"):
        write_shards(mixture, files[0].parent, 1, 3)


def test_a_malformed_sample_is_named(tmp_path):
    path = tmp_path / "shard-000000.tar"
    with tarfile.open(path, "w") as file:
        for name, content in (("7.jpg", b"no picture"), ("7.json", b'{"rounds": [], "boxes": [], "source": "x"}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    with pytest.raises(RecordError, match="shard sample 7"):
        list(open_shards([path]).records())
