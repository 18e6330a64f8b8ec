"""Damaged checkpoints are told from whole ones, whichever of their files it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.resume import damage, set_damaged_aside

DAMAGES = {
    "empty optimizer": lambda folder: (folder / "optimizer.pt").write_bytes(b""),
    "cut optimizer": lambda folder: cut(folder / "optimizer.pt"),
    "changed optimizer": lambda folder: change(folder / "optimizer.pt"),
    "cut weights": lambda folder: cut(folder / "model.safetensors"),
    "empty weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "cut generator states": lambda folder: cut(folder / "rng_state.pth"),
    "cut state": lambda folder: cut(folder / "trainer_state.json"),
    "no state": lambda folder: (folder / "trainer_state.json").unlink(),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def change(path: Path) -> None:
    """Zeroes as a crashed machine leaves them: the length is right."""
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((64,), 7.0).numpy().tobytes())
    content[place:place + 128] = bytes(128)
    path.write_bytes(content)


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    torch.save({"state": torch.full((64,), 7.0)}, path / "optimizer.pt")
    torch.save({"python": 1}, path / "rng_state.pth")
    save_file({"weight": torch.zeros(32)}, path / "model.safetensors")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path, caplog, name):
    whole, last = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert damage(last) is None
    DAMAGES[name](last)
    set_damaged_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-9", "damaged-checkpoint-10"]
    assert damage(whole) is None and "checkpoint-10 is damaged" in caplog.text


def test_where_all_are_damaged_none_is_left(tmp_path):
    for step in (2, 4):
        cut(checkpoint(tmp_path, step) / "optimizer.pt")
    (tmp_path / "damaged-checkpoint-4").mkdir()  # of an earlier crash
    set_damaged_aside(tmp_path)
    assert not list(tmp_path.glob("checkpoint-*")) and len(list(tmp_path.glob("damaged-checkpoint-*"))) == 2
    set_damaged_aside(tmp_path / "not there")
