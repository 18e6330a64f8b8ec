"""Open-vocabulary naming on LVIS and PACO: how near the said words are to the category's name.

Semantic similarity is the cosine of two sentence embeddings, semantic IoU the overlap of their sets of words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from typing_extensions import override

from training.data.coco import categories, usable
from training.data.coco_format import declared_size, read_coco
from training.data.record import Record, RecordError, Round
from training.data.report import Report
from training.data.source import BoxFilter, boxes_array, find_image, image_size
from training.data.texts import readable
from training.evaluation.base import Benchmark, Item, Scores

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
        "semantic similarity": None if similarity is None else 100 * float(similarity.mean()),
        "semantic IoU": 100 * float(overlap.mean()),
    }, overlap if similarity is None else similarity


class Naming(Benchmark):
    """Objects of LVIS or PACO, each asked about by itself.

    annotations: a COCO-style file, or the list of {"file_name", "height", "width", "categories": [name, …],
    "annotations": [{"bbox" x y w h or "segmentation"}, …]} that Osprey's samples of 1000 images have.
    encoder: folder of the sentence encoder; None leaves semantic similarity out.
    """

    def __init__(self, annotations: Path, images: tuple[Path, ...], encoder: Path | None = None,
                 question: str = QUESTION, dataset: str = "lvis"):
        self.name = f"{dataset}_naming"
        self.protocol = (f"{dataset.upper()} validation, true boxes, the category asked for in a word or phrase: "
                         "cosine of all-MiniLM-L6-v2 embeddings and IoU of words, × 100")
        self.annotations, self.images, self.question = Path(annotations), images, question
        self._embed = sentence_embedder(encoder) if encoder else None

    @override
    def items(self) -> Iterator[Item]:
        for path, box, category in self._objects():
            turn = Round(self.question, category, "naming")
            yield Item(Record(path, boxes_array([box]), (turn,), f"{self.name} {path}"), (category,))

    def _objects(self) -> Iterator[tuple[str, list[float], str]]:
        report = Report(0)
        with self.annotations.open("rb") as file:
            listed = file.read(64).lstrip().startswith(b"[")
        if listed:
            for image in json.loads(self.annotations.read_bytes()):
                path = find_image(self.images, image["file_name"])
                image_size(path, declared_size(image), report)
                for category, annotation in zip(image["categories"], image["annotations"], strict=True):
                    yield path, _box(annotation, image), readable(category.replace(":", " "))
            return
        names = categories(self.annotations)
        # LVIS names its images by their address at COCO only.
        fields = (("coco_url",), ("bbox", "category_id"))
        for (image,), annotations in read_coco(self.annotations, *fields, lambda item: item["id"], report):
            path = find_image(self.images, image["coco_url"].rsplit("/", 1)[-1])
            size = image_size(path, declared_size(image), report)
            for annotation in annotations:
                box = usable(annotation, size, BoxFilter(), report, self.name)
                if annotation["category_id"] not in names:
                    raise RecordError(f"{self.annotations}: annotation {annotation['id']} is of category "
                                      f"{annotation['category_id']}, which the file does not list")
                if box is not None:
                    yield path, box, readable(names[annotation["category_id"]])

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        return semantic_scores([item.references[0] for item in items], texts, self._embed)


def _box(annotation: dict, image: dict) -> list[float]:
    """x1 y1 x2 y2 of an annotation, from its bbox or else its polygons or run-length mask."""
    if "bbox" in annotation:
        x, y, w, h = annotation["bbox"]
    else:
        from pycocotools import mask

        shape = annotation["segmentation"]
        if isinstance(shape, list):
            shape = mask.merge(mask.frPyObjects(shape, image["height"], image["width"]))
        x, y, w, h = mask.toBbox(shape).tolist()
    return [x, y, x + w, y + h]
