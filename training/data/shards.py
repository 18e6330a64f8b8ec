"""A mixture written to webdataset's tar files, for sets that are read over a network or don't fit one disk.

A sample is the image file as it was (`jpg`, `png`, …) and `json`, the packed record of one visit. Texts are drawn when
the shards are written, so several epochs may be written to keep their variety.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image
from torch.utils.data import IterableDataset
from tqdm import tqdm

from ros_gpt4roi.model.config import PreprocessConfig
from ros_gpt4roi.model.preprocess import normalise_boxes, preprocess_frame
from training.data.mixture import Mixture
from training.data.record import Record, RecordError, Round, check_record
from training.data.source import boxes_array


def write_shards(mixture: Mixture, folder: Path, epochs: int, per_shard: int) -> list[Path]:
    """Write ``epochs`` epochs of a mixture as ``shard-000000.tar``, …; returns the files.

    Visits that cannot be made count against the mixture's limit. Raises RecordError past it, or where ``folder`` has
    shards already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if list(folder.glob("shard-*.tar")):
        raise RecordError(f"{folder} has shards already; name another folder")
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
    return sorted(folder.glob("shard-*.tar"))


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
    """Streams shards as training.collate.Sample; order of shards by seed and epoch, within a shard as written.

    urls: what webdataset opens: paths, web addresses, "shard-{000000..000099}.tar". Workers share the shards out among
    themselves; ranks get their part of the stream from accelerate.
    """

    def __init__(self, urls: Sequence[str], seed: int, preprocess: PreprocessConfig):
        self.urls = [url for pattern in urls for url in webdataset.shardlists.expand_urls(pattern)]
        self.seed, self.preprocess, self.epoch = seed, preprocess, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the shards."""
        self.epoch = epoch

    def records(self) -> Iterator[Record]:
        """The records of one epoch, or a worker's share of them."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.urls))
        stages = (webdataset.SimpleShardList([self.urls[place] for place in order]), webdataset.split_by_worker,
                  webdataset.tarfile_to_samples())
        return map(read_sample, webdataset.DataPipeline(*stages))

    def __iter__(self) -> Iterator[Any]:
        from training.collate import Sample  # collate imports this package

        for record in self.records():
            height, width = record.image.shape[:2]
            boxes = normalise_boxes(record.boxes, width, height)
            yield Sample(preprocess_frame(record.image, self.preprocess), boxes, None, record.rounds)
