"""A mixture written to webdataset's tar files, for sets that are read over a network or don't fit one disk.

A sample is the image file as it was (`jpg`, `png`, …) and `json`, the packed record of one visit. Texts are drawn when
the shards are written, so several epochs may be written to keep their variety. `index.json` beside them,
{"shards": [["shard-000000.tar", 2000], …]}, tells how many samples each holds; with it every worker of every process
finds its share of an epoch without reading the others'.
"""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from numpy.random import default_rng
from torch.utils.data import IterableDataset
from tqdm import tqdm

from ros_gpt4roi.image_file import read_image
from ros_gpt4roi.model.config import ModelConfig
from ros_gpt4roi.model.qwen3_vl import Qwen3VLConfig
from ros_gpt4roi.regular_file import JSON_BYTES, write_whole
from training.data.mixture import Mixture
from training.data.record import Record, RecordError, Round, check_record
from training.data.report import Malformed
from training.data.sample import CheckedSamples, Sample, make_sample
from training.data.segmentation import decode_mask, encode_mask
from training.data.source import boxes_array
from training.errors import training_packages

with training_packages():
    import webdataset
    from webdataset.utils import pytorch_worker_info

INDEX = "index.json"
Made = TypeVar("Made")


def write_shards(mixture: Mixture, folder: Path, epochs: int, per_shard: int) -> list[Path]:
    """Write a mixture as ``shard-000000.tar``, … and their index. Visits that cannot be made are skipped.

    Args:
        mixture: What is written.
        folder: Where to; made where it is missing.
        epochs: Epochs to write, each with its own texts.
        per_shard: Samples a file.

    Returns:
        The tar files.

    Raises:
        RecordError: More images than the mixture's limit are unusable, or ``folder`` has shards already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if list(folder.glob("shard-*.tar")):
        raise RecordError(f"{folder} has shards already; name another folder")
    written = 0
    with webdataset.ShardWriter(str(folder / "shard-%06d.tar"), maxcount=per_shard, verbose=0) as writer:
        for position in tqdm(range(epochs * len(mixture)), unit=" visits"):
            visit = mixture.locate(position)
            path = mixture.parts[visit.part].source.image(visit.image)
            try:
                record = mixture.visit(visit)
            except ValueError as error:
                mixture.skip(visit, error)
                continue
            masks = [None if mask is None else encode_mask(mask) for mask in record.masks]
            annotation = {"source": record.source, "boxes": record.boxes.tolist(), "masks": masks,
                          "rounds": [[turn.question, turn.answer, turn.task] for turn in record.rounds],
                          "points": list(record.points.items())}
            writer.write({"__key__": f"{position:09d}", path.suffix[1:].lower(): path.read_bytes(),
                          "json": json.dumps(annotation).encode()})
            written += 1
    files = sorted(folder.glob("shard-*.tar"))
    counts = [min(per_shard, written - place * per_shard) for place in range(len(files))]
    index = {"shards": [[file.name, count] for file, count in zip(files, counts, strict=True)]}
    write_whole(folder / INDEX, json.dumps(index).encode())
    return files


def read_sample(sample: dict[str, Any]) -> Record:
    """Decode one of webdataset's samples.

    Args:
        sample: Its files by their endings: ``json``, and one image.

    Returns:
        The record, its image uint8 RGB [H, W, 3].

    Raises:
        RecordError: It is malformed.
    """
    name = f"shard sample {sample['__key__']}"
    images = [value for ending, value in sample.items() if ending != "json" and not ending.startswith("__")]
    try:
        annotation = json.loads(sample["json"])
        (content,) = images
        rounds = tuple(Round(*turn) for turn in annotation["rounds"])
        masks = tuple(None if mask is None else decode_mask(mask) for mask in annotation.get("masks", ()))
        boxes = boxes_array(annotation["boxes"])
        points = {int(number): (float(x), float(y)) for number, (x, y) in annotation.get("points", ())}
        return check_record(Record(read_image(content), boxes, rounds, annotation["source"], masks, points))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise RecordError(f"{name}: {type(error).__name__}: {error}") from error


class ShardDataset(CheckedSamples, IterableDataset):
    """Streams shards as training.data.sample.Sample, epoch after epoch without an end.

    In an epoch every sample is seen once: the samples, shards in an order by seed and epoch, are divided into as many
    equal stretches as there are workers in all processes together. So nobody waits for others, decodes what is theirs,
    or reads more than one shard of it. A malformed sample is counted and logged once, and left out.

    Args:
        index: Path or web address of the index; the shards lie beside it.
        seed: Fixes the order.
        config: Of the model that is trained.
        malformed_limit: Samples that may be malformed, in one process.

    Raises:
        RecordError: The index cannot be read; from reading on, a shard is damaged or too many samples are malformed.
    """

    def __init__(self, index: str, seed: int, config: ModelConfig | Qwen3VLConfig, malformed_limit: int = 100):
        try:
            with webdataset.gopen(str(index)) as file:
                content = file.read(JSON_BYTES + 1)
            if len(content) > JSON_BYTES:
                raise ValueError(f"larger than {JSON_BYTES} bytes")
            self.shards = [(str(name), int(count)) for name, count in json.loads(content)["shards"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(f"{index}: {error!r}, expected what `python -m training.data shard` writes") from error
        if not sum(count for _, count in self.shards):
            raise RecordError(f"{index}: no samples")
        self.base = "".join(str(index).rpartition("/")[:2])
        self.seed, self.config = seed, config
        self.malformed = Malformed(malformed_limit)

    def records(self, epoch: int, place: int = 0, shares: int = 1) -> Iterator[Record]:
        """Yield a share of an epoch; see `read`."""
        return self.read(epoch, place, shares, lambda record: record)

    def read(self, epoch: int, place: int, shares: int, make: Callable[[Record], Made]) -> Iterator[Made]:
        """Yield what is made of a share of an epoch.

        Args:
            epoch: The epoch, from 0.
            place: Which share, from 0.
            shares: How many there are.
            make: Makes it of a record; RecordError where the record is no good for it.

        Yields:
            What is made of its records, malformed ones left out.

        Raises:
            RecordError: A shard is damaged or holds less than the index says, or too many samples are malformed.
        """
        order = default_rng([self.seed, epoch]).permutation(len(self.shards))
        total = sum(count for _, count in self.shards)
        first, end = place * total // shares, (place + 1) * total // shares
        begin = 0
        for name, count in (self.shards[number] for number in order):
            low, high = max(first - begin, 0), min(end - begin, count)
            if low < high:
                for number, sample in enumerate(self._samples(name, low, high, count), low):
                    try:
                        made = make(read_sample(sample))
                    except RecordError as error:
                        self.malformed.fail(f"{self.base}{name}: {error}", (name, number))
                        continue
                    yield made
            begin += count

    def _samples(self, name: str, low: int, high: int, count: int) -> Iterator[dict[str, Any]]:
        stream = webdataset.DataPipeline(webdataset.SimpleShardList([self.base + name]),
                                         webdataset.tarfile_to_samples())
        found = low
        try:
            for sample in itertools.islice(stream, low, high):
                found += 1
                yield sample
        except (OSError, ValueError, EOFError, tarfile.TarError) as error:
            raise RecordError(f"{self.base}{name}: damaged behind {found} samples: {error}") from error
        if found < high:
            raise RecordError(f"{self.base}{name}: only {found} samples, but the index says {count}")

    def __iter__(self) -> Iterator[Sample]:
        rank, processes, worker, workers = pytorch_worker_info()
        for epoch in itertools.count():
            yield from self.read(epoch, rank * workers + worker, processes * workers,
                                 partial(make_sample, config=self.config, check=self.check))
