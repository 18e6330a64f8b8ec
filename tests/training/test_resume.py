"""Damaged checkpoints are told from whole ones, whichever of their files it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint
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
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no optimizer": lambda folder: (folder / "optimizer.pt").unlink(),
}
DAMAGES_IN_SHARDS = {
    "cut metadata": lambda folder: cut(folder / "pytorch_model_fsdp_0" / ".metadata"),
    "empty metadata": lambda folder: (folder / "optimizer_0" / ".metadata").write_bytes(b""),
    "no metadata": lambda folder: (folder / "pytorch_model_fsdp_0" / ".metadata").unlink(),
    "no weights": lambda folder: shutil.rmtree(folder / "pytorch_model_fsdp_0"),
    "no optimizer": lambda folder: shutil.rmtree(folder / "optimizer_0"),
    "cut shard": lambda folder: cut(folder / "pytorch_model_fsdp_0" / "__0_0.distcp"),
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


@pytest.mark.parametrize("name", DAMAGES_IN_SHARDS)
def test_damage_of_a_model_in_shards_is_found(tmp_path, name):
    folder = checkpoint(tmp_path, 10)
    for ordinary, sharded in (("model.safetensors", "pytorch_model_fsdp_0"), ("optimizer.pt", "optimizer_0")):
        (folder / ordinary).unlink()
        torch.distributed.checkpoint.save({"weight": torch.zeros(32)}, checkpoint_id=folder / sharded, no_dist=True)
    assert damage(folder) is None
    DAMAGES_IN_SHARDS[name](folder)
    assert damage(folder) is not None


def test_a_checkpoint_of_the_weights_alone_is_whole(tmp_path):
    folder = checkpoint(tmp_path, 10)
    for name in ("optimizer.pt", "rng_state.pth"):  # as with save_only_model
        (folder / name).unlink()
    assert damage(folder) is None


def test_where_all_are_damaged_none_is_left(tmp_path):
    for step in (2, 4):
        cut(checkpoint(tmp_path, step) / "optimizer.pt")
    (tmp_path / "damaged-checkpoint-4").mkdir()  # of an earlier crash
    set_damaged_aside(tmp_path)
    assert not list(tmp_path.glob("checkpoint-*")) and len(list(tmp_path.glob("damaged-checkpoint-*"))) == 2
    set_damaged_aside(tmp_path / "not there")
