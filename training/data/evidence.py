"""An index of records by the region embeddings of a model: what a robot's answer resembles, and what is unusual."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ros_gpt4roi.image_file import read_image
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.evidence import INDEX_FILE, EvidenceIndex, TrainingRegion, most_regions, write_index
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.regions import usable_regions
from ros_gpt4roi.runtime.types import Frame, Region, Status
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from training.data.record import Filtered
from training.data.record_file import FILE, PictureRecord, picture_path, read_records
from training.data.report import Report
from training.errors import training_packages

_NEIGHBOURS = 5


def build_index(folder: Path, model: str, report: Report) -> None:
    """Write the index of a folder's regions, by their boxes.

    Args:
        folder: With records.jsonl.
        model: A checkpoint folder, or the name of a model that is installed.
        report: Counts what is in it, and what is left out.

    Raises:
        RecordError: The records cannot be read.
        CheckpointError: The model cannot be.
    """
    pipeline = Pipeline.open(find_model(model), PipelineConfig(vision=VisionOptions(backend="torch")))
    regions: list[TrainingRegion] = []
    embeddings: list[np.ndarray] = []
    for record in read_records(folder / FILE, report):
        with report.item(f"record of {record.file[:200]}"):
            found = _embeddings(pipeline, folder, record, report)
            for region in record.regions:
                if region.id not in found:
                    continue
                if len(regions) >= most_regions(found[region.id].size):
                    report.filter(f"region beyond the first {len(regions)}, which is what an index holds")
                    continue
                embeddings.append(found[region.id].astype(np.float16))
                regions.append(TrainingRegion(record.file, region.id, region.box, region.name, region.description,
                                              region.source))
            report.kept += 1
    report.count("regions", len(regions))
    write_index(folder, pipeline.version, np.array(embeddings, np.float16).reshape(len(regions), -1), regions)


def _embeddings(pipeline: Pipeline, folder: Path, record: PictureRecord, report: Report) -> dict[str, np.ndarray]:
    image = read_image(picture_path(folder, record.file))
    height, width = image.shape[:2]
    if (width, height) != (record.width, record.height):
        raise ValueError(f"the picture has {width}x{height} pixels, expected {record.width}x{record.height}")
    if not record.regions:
        raise Filtered("picture without regions")
    most = pipeline.model_config.prompt.max_regions
    found: dict[str, np.ndarray] = {}
    usable, refused = usable_regions([Region(region.id, region.box) for region in record.regions], width, height)
    for reason in refused:
        report.fail(f"{record.file}: {reason}")
    for first in range(0, len(usable), most):
        result = pipeline.embed(Frame(image, usable[first:first + most], 0, ""))
        if result.status != Status.OK:
            raise ValueError(result.error)
        found |= result.embeddings
    return found


def unusual_pictures(folder: Path) -> dict[str, float] | None:
    """How unusual the pictures of a folder are, by its index.

    Returns:
        Picture's file → mean cosine distance of its most unusual region to the five regions of the folder that it
        resembles most; None where the folder has no index.

    Raises:
        EvidenceError: The index is damaged.
    """
    if not (folder / INDEX_FILE).exists():
        return None
    index = EvidenceIndex(folder)
    if len(index) < 2:
        return {}
    with training_packages():
        from sklearn.neighbors import NearestNeighbors
    neighbours = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(index) - 1), metric="cosine", algorithm="brute")
    distances, _ = neighbours.fit(index.embeddings.astype(np.float32)).kneighbors()  # of each to all others
    found: dict[str, float] = {}
    for place, distance in enumerate(distances.mean(1)):
        file = index[place].file
        found[file] = max(found.get(file, 0.0), float(distance))
    return found
