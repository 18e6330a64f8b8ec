"""Open-vocabulary naming on LVIS and PACO: how near the said words are to the category's name.

Semantic similarity is the cosine of two sentence embeddings, semantic IoU the overlap of their sets of words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from typing_extensions import override

from training.data.coco import categories
from training.data.coco_format import Item as CocoItem
from training.data.coco_format import locate_images, pick, read_coco, stream, usable_box
from training.data.record import Record, RecordError, Round
from training.data.segmentation import segmentation_region
from training.data.source import BoxedOptions, boxes_array
from training.data.texts import readable
from training.evaluation.base import Benchmark, Item, Scores, per_cent

QUESTION = "What is the category of <region1>? Answer with one word or phrase."
# Texts → unit vectors float32 [N, D].
Embed = Callable[[Sequence[str]], np.ndarray]


def clean(text: str) -> str:
    """Lower case, without punctuation; of "Category: x" only x."""
    return " ".join(re.sub(r"[^\w\s'-]|_", " ", text.split(":")[-1].lower()).split())


def word_overlap(said: str, truth: str) -> float:
    """Semantic IoU: words in both over words in either, 0 where nothing was said."""
    a, b = set(clean(said).split()), set(clean(truth).split())
    return len(a & b) / len(a | b) if a | b else 0.0


def sentence_embedder(folder: Path, batch: int = 64) -> Embed:
    """Mean-pooled, normalised embeddings of a sentence encoder (all-MiniLM-L6-v2 in the protocol) from a local folder.

    Raises RecordError where there is no such folder.
    """
    if not Path(folder).is_dir():
        raise RecordError(f"{folder}: no such folder; the sentence encoder (all-MiniLM-L6-v2) must lie there")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> np.ndarray:
        rows = []
        for begin in range(0, len(texts), batch):
            inputs = tokenizer(list(texts[begin:begin + batch]), padding=True, truncation=True, return_tensors="pt")
            mask = inputs["attention_mask"][..., None]
            pooled = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
            rows.append(torch.nn.functional.normalize(pooled, dim=-1).float().numpy())
        return np.concatenate(rows)

    return embed


def semantic_scores(truth: Sequence[str], said: Sequence[str], embed: Embed | None) -> tuple[dict[str, float | None],
                                                                                             np.ndarray]:
    """(semantic similarity and IoU × 100, each item's IoU or, with ``embed``, similarity)."""
    overlap = np.asarray([word_overlap(a, b) for a, b in zip(said, truth, strict=True)])
    similarity = None
    if embed is not None:
        similarity = (embed([clean(text) for text in said]) * embed([clean(text) for text in truth])).sum(-1)
    return {
        "semantic similarity": None if similarity is None else per_cent(similarity), "semantic IoU": per_cent(overlap),
    }, overlap if similarity is None else similarity


class Naming(Benchmark):
    """Objects of LVIS or PACO, each asked about by itself.

    Args:
        annotations: A COCO-style file, or the list of {"file_name", "height", "width", "categories": [name, …],
            "annotations": [{"bbox" x y w h or "segmentation"}, …]} that Osprey's samples of 1000 images have.
        encoder: Folder of the sentence encoder; None leaves semantic similarity out.
    """

    def __init__(self, annotations: Path, images: tuple[Path, ...], encoder: Path | None = None,
                 question: str = QUESTION, dataset: str = "lvis"):
        self.name = f"{dataset}_naming"
        self.protocol = (f"{dataset.upper()} validation, true boxes, the category asked for in a word or phrase: "
                         "cosine of all-MiniLM-L6-v2 embeddings and IoU of words, × 100")
        self.question = question
        self.options = BoxedOptions(annotations, images=images)
        self._embed = sentence_embedder(encoder) if encoder else None

    @override
    def items(self) -> Iterator[Item]:
        annotations, report = self.options.annotations, self.report
        with annotations.open("rb") as file:
            listed = file.read(64).lstrip().startswith(b"[")
        names = {} if listed else categories(annotations)
        groups = self._listed() if listed else self._joined()
        for image in locate_images(self.name, self.options, groups, report):
            for annotation in image.annotations:
                with report.item(f"{image.where}: annotation {annotation.get('id')}"):
                    if listed:
                        box, category = _box(annotation, image.size), annotation["category"].replace(":", " ")
                    else:
                        box = usable_box(annotation, image.size, self.options.boxes, report)
                        category = names[annotation["category_id"]]
                    turn = Round(self.question, readable(category), "naming")
                    record = Record(image.path, boxes_array([box]), (turn,), f"{self.name} {image.path}")
                    yield Item(record, (turn.answer,))

    def _listed(self) -> Iterator[tuple[list[CocoItem], list[CocoItem]]]:
        for image in stream(self.options.annotations, "item"):
            with self.report.item(str(self.options.annotations)):
                found = pick(image, ("file_name", "categories", "annotations"), "image", "file_name")
                pairs = zip(found["categories"], found["annotations"], strict=True)
                yield ([{**found, "id": found["file_name"]}],
                       [{**annotation, "category": category} for category, annotation in pairs])

    def _joined(self) -> Iterator[tuple[list[CocoItem], list[CocoItem]]]:
        # LVIS names its images by their address at COCO only.
        groups = read_coco(self.options.annotations, ("coco_url",), ("bbox", "category_id"), self.report)
        for (image,), annotations in groups:
            yield [{**image, "file_name": image["coco_url"].rpartition("/")[2]}], annotations

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        return semantic_scores([item.references[0] for item in items], texts, self._embed)


def _box(annotation: CocoItem, size: tuple[int, int]) -> Sequence[float]:
    """x1 y1 x2 y2 of an annotation, from its bbox or else its polygons or run-length mask."""
    if "bbox" not in annotation:
        return segmentation_region(annotation["segmentation"], size).box
    x, y, w, h = annotation["bbox"]
    return x, y, x + w, y + h
