"""An index of records by region embedding: of a real model, on pictures; what it finds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import training_fixtures as fixtures
from PIL import Image
from safetensors.numpy import save_file

from ros_gpt4roi.runtime import evidence
from ros_gpt4roi.runtime.evidence import INDEX_FILE, EvidenceError, EvidenceIndex, TrainingRegion, write_index
from training.data.__main__ import main
from training.data.record_file import FILE, read_records
from training.data.report import Report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of one colour that are alike, one that resembles none of them, one that is not there."""
    folder = tmp_path_factory.mktemp("records")
    lines = []
    for number, name in enumerate(["a", "b", "c", "d", "e", "f", "odd", "missing"]):
        lines.append({"file": f"{name}.png", "width": 96, "height": 64, "regions": [
            {"id": "7", "box": [10, 10, 60, 50], "name": "x", "description": "x" * 1000}]})
        pixels = np.full((64, 96, 3), 90 + number, np.uint8)
        if name == "odd":
            pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
        if name != "missing":
            Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["index", str(folder), "--model", "tabletop"]) == 1, "a picture is missing"
    return folder


def test_what_looks_alike_is_near_and_pictures_are_small(folder: Path) -> None:
    index = EvidenceIndex(folder)
    assert len(index) == 7 and index.model.startswith("tabletop@")
    own = index.row("a.png", "7")
    near = index.nearest(own, 6, but_file="a.png")
    assert [region.file for region, _ in near][-1] == "odd.png" and "a.png" not in {region.file for region, _ in near}
    assert [distance for _, distance in near] == sorted(distance for _, distance in near) and near[0][1] < 0.1
    assert index.nearest(own, 1)[0][1] == pytest.approx(0, abs=2e-3) and len(near[0][0].description) <= 300
    assert 100 < len(index.small_picture(near[0][0])) < 20_000
    assert index.small_picture(TrainingRegion("../a.png", "1", (0, 0, 5, 5))) == b""
    assert index.small_picture(TrainingRegion("a.png", "1", (float("nan"), 0, 5, 5))) == b""
    assert index.row("a.png", "8") is None
    with pytest.raises(EvidenceError, match="of another model"):
        index.nearest(own[:5], 1)


def test_the_unusual_one_is_selected_for_review(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", str(folder), "--review", "1"]) == 0
    assert "review 1: unusual" in capsys.readouterr().out
    chosen = {record.file: record.review for record in read_records(folder / FILE, Report(0))}
    assert chosen.pop("odd.png") == ("unusual",) and not any(chosen.values())


def test_an_index_that_cannot_be_used_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixtures.records(tmp_path)
    with pytest.raises(EvidenceError, match="is not there; make it by: python -m training.data index"):
        EvidenceIndex(tmp_path)
    path = tmp_path / INDEX_FILE
    path.write_bytes(b"no index")
    assert main(["select", str(tmp_path), "--review", "1"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    save_file({"a": np.zeros(3, np.float32)}, path, {"format": "of somebody else"})
    with pytest.raises(EvidenceError, match="'of somebody else'"):
        EvidenceIndex(tmp_path)
    tensors = {"embeddings": np.zeros((2, 4), np.float16), "offsets": np.array([0, 9, 4]),
               "texts": np.zeros(4, np.uint8)}
    save_file(tensors, path, {"format": evidence._FORMAT})
    with pytest.raises(EvidenceError, match="damaged"):
        EvidenceIndex(tmp_path)
    save_file(tensors | {"offsets": np.array([0, 1, 4])}, path, {"format": evidence._FORMAT})
    with pytest.raises(EvidenceError, match="damaged at region 0"):
        EvidenceIndex(tmp_path).nearest(np.zeros(4, np.float32), 1)
    write_index(tmp_path, "m@1", np.zeros((0, 0), np.float16), [])
    assert EvidenceIndex(tmp_path).nearest(np.zeros(0, np.float32), 3) == []
    assert main(["index", str(tmp_path), "--model", "nosuchmodel"]) == 1
    assert "nosuchmodel" in capsys.readouterr().err
