"""A mixture written to webdataset's tar files, for sets that are read over a network or don't fit one disk.

A sample is the image file as it was (`jpg`, `png`, …) and `json`, the packed record of one visit. Texts are drawn when
the shards are written, so several epochs may be written to keep their variety. `index.json` beside them,
{"shards": [["shard-000000.tar", 2000], …]}, tells how many samples each holds; with it every worker of every process
finds its share of an epoch without reading the others'.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image
from torch.utils.data import IterableDataset
from tqdm import tqdm
from webdataset.utils import pytorch_worker_info

from ros_gpt4roi.model.config import PreprocessConfig
from ros_gpt4roi.model.preprocess import normalise_boxes, preprocess_frame
from training.data.mixture import Mixture
from training.data.record import Record, RecordError, Round, check_record
from training.data.source import boxes_array

INDEX = "index.json"


def write_shards(mixture: Mixture, folder: Path, epochs: int, per_shard: int) -> list[Path]:
    """Write ``epochs`` epochs of a mixture as ``shard-000000.tar``, … and their index; returns the tar files.

    Visits that cannot be made count against the mixture's limit. Raises RecordError past it, or where ``folder`` has
    shards already.
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
            except (RecordError, ValueError, OSError) as error:
                mixture.fail(f"{path}: {error}")
                continue
            facts = {"source": record.source, "boxes": record.boxes.tolist(),
                     "rounds": [[turn.question, turn.answer, turn.task] for turn in record.rounds]}
            writer.write({"__key__": f"{position:09d}", path.suffix[1:].lower(): path.read_bytes(),
                          "json": json.dumps(facts).encode()})
            written += 1
    files = sorted(folder.glob("shard-*.tar"))
    counts = [min(per_shard, written - place * per_shard) for place in range(len(files))]
    partial = folder / (INDEX + ".partial")
    partial.write_text(json.dumps({"shards": [[f.name, n] for f, n in zip(files, counts, strict=True)]}))
    os.replace(partial, folder / INDEX)
    return files


def read_sample(sample: dict[str, Any]) -> Record:
    """The record, its image decoded, of one of webdataset's samples. Raises RecordError where it is malformed."""
    key = sample["__key__"]
    images = [value for name, value in sample.items() if name != "json" and not name.startswith("__")]
    try:
        facts = json.loads(sample["json"])
        (content,) = images
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
        rounds = tuple(Round(*turn) for turn in facts["rounds"])
        return check_record(Record(pixels, boxes_array(facts["boxes"]), rounds, facts["source"]))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RecordError(f"shard sample {key}: {type(error).__name__}: {error}") from error


class ShardDataset(IterableDataset):
    """Streams shards as training.collate.Sample, epoch after epoch without an end.

    index: path or web address of the index; the shards lie beside it. In an epoch every sample is seen once: its
    samples, shards in an order by seed and epoch, are divided into as many equal stretches as there are workers in all
    processes together. So nobody waits for others, and nobody decodes, or reads more than a shard of, what is theirs.
    Raises RecordError where the index cannot be read.
    """

    def __init__(self, index: str, seed: int, preprocess: PreprocessConfig):
        try:
            with webdataset.gopen(str(index)) as file:
                self.shards = [(str(name), int(count)) for name, count in json.load(file)["shards"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{index}: {error!r}, expected what `python -m training.data shard` writes") from error
        if not sum(count for _, count in self.shards):
            raise RecordError(f"{index}: no samples")
        self.base = "".join(str(index).rpartition("/")[:2])
        self.seed, self.preprocess = seed, preprocess

    def records(self, epoch: int, place: int = 0, shares: int = 1) -> Iterator[Record]:
        """Share ``place`` (from 0) of an epoch that is divided into ``shares``."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
        total = sum(count for _, count in self.shards)
        first, end = place * total // shares, (place + 1) * total // shares
        begin = 0
        for name, count in (self.shards[number] for number in order):
            low, high = max(first - begin, 0), min(end - begin, count)
            if low < high:
                stream = webdataset.DataPipeline(webdataset.SimpleShardList([self.base + name]),
                                                 webdataset.tarfile_to_samples())
                found = low
                for found, sample in enumerate(itertools.islice(stream, low, high), low + 1):
                    yield read_sample(sample)
                if found < high:
                    raise RecordError(f"{self.base}{name}: only {found} samples, but the index says {count}")
            begin += count

    def __iter__(self) -> Iterator[Any]:
        from training.collate import Sample  # collate imports this package

        rank, processes, worker, workers = pytorch_worker_info()
        for epoch in itertools.count():
            for record in self.records(epoch, rank * workers + worker, processes * workers):
                height, width = record.image.shape[:2]
                boxes = normalise_boxes(record.boxes, width, height)
                yield Sample(preprocess_frame(record.image, self.preprocess), boxes, None, record.rounds)
