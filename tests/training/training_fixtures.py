"""Small hand-made files in every data set's true format, with tiny images beside them."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.data.source import Shared, parse_options


def _png(size: int, *chunks: tuple[bytes, bytes]) -> bytes:
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return content


# Pictures at which decoders raise errors of different kinds: OSError, SyntaxError, DecompressionBombError, …
HEADLESS_PICTURES = {
    "no picture": b"not a picture", "empty": b"", "broken chunk": _png(80, (b"\0\1\2\3", b"x")),
    "bomb": _png(30_000, (b"IDAT", zlib.compress(b"\0" * 99))),
    "huge": _png(2_000_000_000, (b"IDAT", b"")), "cut header": b"II*\0\xff\xff\xff\x7f",
}
BROKEN_PICTURES = HEADLESS_PICTURES | {
    "no pixels": _png(80), "broken pixels": _png(80, (b"IDAT", b"no deflate stream")),
}


def image(path: Path, width: int = 100, height: int = 80) -> Path:
    """A picture whose pixels tell its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(path.name.encode())).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two usable images; one box each is a crowd, tiny or outside. ``changes`` replace lists of the file."""
    for number in (9, 25):
        image(folder / "train2017" / f"{number:012d}.jpg")
    content = {
        "images": [
            {"id": 9, "file_name": "000000000009.jpg", "height": 80, "width": 100},
            {"id": 25, "file_name": "000000000025.jpg", "height": 80, "width": 100},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 18, "bbox": [10, 10, 30, 40], "area": 900.0, "iscrowd": 0},
            {"id": 2, "image_id": 25, "category_id": 1, "bbox": [5.5, 6, 20, 20], "area": 300.0, "iscrowd": 0},
            {"id": 3, "image_id": 9, "category_id": 1, "bbox": [50, 20, 60, 50], "area": 1500.0, "iscrowd": 0},
            {"id": 4, "image_id": 9, "category_id": 1, "bbox": [0, 0, 90, 70], "area": 900.0, "iscrowd": 1},
            {"id": 5, "image_id": 25, "category_id": 18, "bbox": [40, 40, 0.5, 9], "area": 4.5, "iscrowd": 0},
            {"id": 6, "image_id": 25, "category_id": 18, "bbox": [200, 40, 9, 9], "area": 81.0, "iscrowd": 0},
        ],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 18, "name": "dog", "supercategory": "animal"},
        ],
    }
    path = write(folder / "annotations" / "instances_train2017.json", content | changes)
    return {"annotations": path, "images": folder / "train2017"}


def refcoco(folder: Path, dataset: str = "refcoco") -> dict[str, Any]:
    """Three sentences about one image, two of them about the same box, and one that is too short."""
    image(folder / "coco" / "000000000581.jpg")
    name = "COCO_train2014_000000000581.jpg"
    captions = ["the lady with the blue shirt", "woman in blue on the left", "man in the middle", "left guy"]
    boxes = [[10, 10, 30, 50], [10, 10, 30, 50], [45, 5, 40, 60], [45, 5, 40, 60]]
    content = {
        "info": [], "licenses": [],
        "images": [
            {"file_name": name, "height": 80, "width": 100, "id": place, "original_id": 581, "caption": caption,
             "dataset_name": dataset, "tokens_negative": [[0, len(caption)]]}
            for place, caption in enumerate(captions)
        ],
        "annotations": [
            {"area": box[2] * box[3], "iscrowd": 0, "image_id": place, "category_id": 1, "id": place, "bbox": box,
             "tokens_positive": [[0, 4]], "original_id": 70 + place}
            for place, box in enumerate(boxes)
        ],
        "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
    }
    path = write(folder / f"finetune_{dataset}_train.json", content)
    return {"annotations": path, "images": folder / "coco", "dataset": dataset}


CAPTION = "Two men and a dog stand by a red car ."


def flickr(folder: Path) -> dict[str, Any]:
    """One caption: "Two men" has two boxes; the box of the car is named by "a red car" and by "red"."""
    image(folder / "flickr30k-images" / "1000092795.jpg")
    content = {
        "images": [{"file_name": "1000092795.jpg", "height": "80", "width": "100", "id": 7, "caption": CAPTION,
                    "dataset_name": "flickr", "original_img_id": 1000092795, "sentence_id": 0}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 400, "bbox": [5, 5, 20, 60],
             "tokens_positive": [[0, 7]]},
            {"id": 2, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 400, "bbox": [30, 5, 20, 60],
             "tokens_positive": [[0, 7]]},
            {"id": 3, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 100, "bbox": [52, 40, 10, 20],
             "tokens_positive": [[12, 17]]},
            {"id": 4, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 900, "bbox": [65, 20, 30, 40],
             "tokens_positive": [[27, 36], [29, 32]]},
        ],
        "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
    }
    return {"annotations": write(folder / "final_flickr_separateGT_train.json", content),
            "images": folder / "flickr30k-images"}


def visual_genome(folder: Path) -> dict[str, Any]:
    """region_descriptions.json: three regions of one image, one of them empty, in the second image folder."""
    (folder / "VG_100K").mkdir(parents=True, exist_ok=True)
    image(folder / "VG_100K_2" / "61.jpg")
    content = [{"id": 61, "regions": [
        {"region_id": 1, "image_id": 61, "phrase": "a clock on the wall", "x": 10, "y": 5, "width": 30, "height": 30},
        {"region_id": 2, "image_id": 61, "phrase": "street lamp", "x": 60, "y": 0, "width": 20, "height": 70},
        {"region_id": 3, "image_id": 61, "phrase": "shade", "x": 60, "y": 0, "width": 0, "height": 70},
    ]}]
    return {"annotations": write(folder / "region_descriptions.json", content),
            "images": [folder / "VG_100K", folder / "VG_100K_2"]}


def visual_genome_grit(folder: Path) -> dict[str, Any]:
    """The COCO-style file of GRiT: the phrase is the annotation's caption."""
    image(folder / "vg_all" / "61.jpg")
    content = {
        "images": [{"id": 61, "file_name": "61.jpg", "height": 80, "width": 100}],
        "annotations": [
            {"id": 1, "image_id": 61, "category_id": 1, "iscrowd": 0, "area": 900, "bbox": [10, 5, 30, 30],
             "caption": "a clock on the wall"},
            {"id": 2, "image_id": 61, "category_id": 1, "iscrowd": 0, "area": 1400, "bbox": [60, 0, 20, 70],
             "caption": "street lamp"},
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    return {"annotations": write(folder / "train.json", content), "images": folder / "vg_all"}


def vcr_item(question: str, question_tokens: list[Any], answer: str, answer_tokens: list[Any], rationale: str,
             rationale_tokens: list[Any], objects: list[str], name: str = "a") -> dict[str, Any]:
    """One line of train.jsonl: the right answer is the third choice, the right rationale the first."""
    wrong = ["Nobody", "knows", "."]
    return {
        "movie": "m", "objects": objects, "interesting_scores": [0], "answer_likelihood": "possible",
        "img_fn": f"m/{name}.jpg", "metadata_fn": f"m/{name}.json", "annot_id": f"train-{name}",
        "question": question_tokens, "question_orig": question, "answer_orig": answer, "rationale_orig": rationale,
        "answer_choices": [wrong, wrong, answer_tokens, wrong], "answer_label": 2,
        "rationale_choices": [rationale_tokens, wrong, wrong, wrong], "rationale_label": 0,
    }


OBJECTS = ["person", "person", "dog"]
# "2 women" and "1st" are numbers of the text, 2, 1 and 3 elsewhere are objects.
MULTI = vcr_item(
    "Why do 2 women watch 2 and 3 ?", ["Why", "do", "2", "women", "watch", [1, 2], "?"],
    "3 is the 1st dog 2 has .", [[2], "is", "the", "1st", "dog", [1], "has", "."],
    "2 looks at 3 .", [[1], "looks", "at", [2], "."], OBJECTS,
)
SINGLE = vcr_item(
    "Is 3 happy ?", ["Is", [2], "happy", "?"], "Yes , 3 is happy .", ["Yes", ",", [2], "is", "happy", "."],
    "1 strokes 3 .", [[0], "strokes", [2], "."], OBJECTS,
)


def vcr(folder: Path, form: str, items: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    image(folder / "vcr1images" / "m" / "a.jpg")
    boxes = [[5, 5, 30, 70, 0.9], [35, 5, 60, 70, 0.8], [62, 30, 95, 70, 0.7]]
    write(folder / "vcr1images" / "m" / "a.json", {"boxes": boxes, "names": OBJECTS, "width": 100, "height": 80})
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in (items or [MULTI, SINGLE])))
    return {"annotations": path, "images": folder / "vcr1images", "form": form}


def detections() -> dict[str, Any]:
    """Detector results with names: two good boxes, one of low score and a thin one."""
    return {
        "class_names": ["dog", "bow_(weapon)", "owl"],
        "results": [{
            "filename": "000000000033.jpg",
            "pred_bboxes": [[0.1, 0.1, 0.5, 0.5, 0.9], [0.5, 0.5, 0.9, 0.9, 0.8], [0.2, 0.2, 0.4, 0.4, 0.1],
                            [0.6, 0.1, 0.61, 0.9, 0.7]],
            "labels": [0, 2, 0, 1],
        }],
    }


def llava(folder: Path, results: dict[str, Any] | None = None) -> dict[str, Any]:
    image(folder / "coco" / "000000000033.jpg")
    content = [
        {"id": "000000000033", "image": "000000000033.jpg", "conversations": [
            {"from": "human", "value": "<image>\nWhat is the dog doing?"}, {"from": "gpt", "value": "It sleeps."},
            {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "On the sofa."},
        ]},
        {"id": "000000000033", "image": "000000000033.jpg", "conversations": [
            {"from": "human", "value": "Describe the scene.\n<image>"}, {"from": "gpt", "value": "A calm room."},
        ]},
    ]
    return {
        "annotations": write(folder / "llava_instruct_150k.json", content), "images": folder / "coco",
        "detections": write(folder / "detections.json", detections() if results is None else results),
    }


def records(folder: Path, *changed: dict[str, Any]) -> dict[str, Any]:
    """Two pictures of one's own; the first has two regions, one with a mask, and a conversation about both."""
    for name in ("a.png", "b.png"):
        image(folder / "images" / name)
    lines = changed or (
        {"file": "images/a.png", "width": 100, "height": 80, "regions": [
            {"id": "1", "box": [10, 10, 40, 50], "name": "valve", "attributes": {"colour": "red"},
             "description": "a red valve on the wall", "source": "person",
             "mask": [[10, 10, 40, 10, 10, 50]]},
            {"id": "mug_3", "box": [50, 20, 90, 70], "name": "mug", "source": "model", "confidence": 0.4},
        ], "conversations": [
            {"rounds": [["What is left of <region mug_3>?", "<region 1>, a red valve."], ["Why?", "It is turned."]],
             "source": "person"},
        ]},
        {"file": "images/b.png", "width": 100, "height": 80, "regions": [{"box": [5, 5, 30, 30], "name": "owl"}]},
    )
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"annotations": folder / "records.jsonl", "form": "texts"}


def source(kind: Any, values: dict[str, Any], folder: Path, limit: int = 0) -> Any:
    """A loader over fixture files; its index lies under ``folder``."""
    return kind(parse_options(kind.options_type, values, kind.kind), Shared(folder / "cache", limit))


def section(folder: Path) -> dict[str, Any]:
    """A data section that mixes every data set."""
    sources = [
        {"type": "coco", **coco(folder / "coco")},
        {"type": "refcoco", **refcoco(folder / "refcoco")},
        {"type": "refcoco", **refcoco(folder / "refcoco+", "refcoco+")},
        {"type": "refcoco", **refcoco(folder / "refcocog", "refcocog")},
        {"type": "flickr", **flickr(folder / "flickr")},
        {"type": "visual_genome", **visual_genome(folder / "vg")},
        {"type": "visual_genome", **visual_genome_grit(folder / "grit")},
        *({"type": "vcr", **vcr(folder / "vcr", form)} for form in ("all", "single", "multi", "answer", "rationale")),
        {"type": "llava", **llava(folder / "llava")},
    ]
    return {"cache": folder / "cache", "malformed_limit": 0, "sources": sources}
