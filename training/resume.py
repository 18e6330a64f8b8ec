"""Which checkpoints of a stage can be gone on from."""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint import FileSystemReader
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

logger = logging.getLogger(__name__)
# Weights and optimizer of a model in shards, each kept in shards or as a whole, as accelerate names them.
_FSDP_KINDS = (("pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata"),
               ("pytorch_model_fsdp.bin", "optimizer.bin"))


def set_damaged_aside(folder: Path) -> None:
    """Renames the newest checkpoints of a folder to damaged-checkpoint-N until the newest one is whole.

    A full disk or a crash of the machine can leave files empty or cut short; the one before is then gone on from.
    """
    while folder.is_dir() and (last := get_last_checkpoint(str(folder))) is not None:
        problem = damage(Path(last))
        if problem is None:
            return
        aside = folder / f"damaged-{Path(last).name}"
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(last, aside)
        logger.warning("%s is damaged (%s); kept as %s, going on from the one before it", last, problem, aside.name)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint of transformers' Trainer, or None where all of its files can be read."""
    for name in _expected(checkpoint):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        try:
            _check(path)
        except (OSError, ValueError, RecursionError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
            return f"{path.relative_to(checkpoint)}: {error}"
    return None


def _expected(checkpoint: Path) -> list[str]:
    """Names of the files without which a checkpoint of its kind cannot be gone on from."""
    names = {path.name for path in checkpoint.iterdir()}
    weights, optimizer = next((kind for kind in _FSDP_KINDS if names & {name.partition("/")[0] for name in kind}),
                              (SAFE_WEIGHTS_NAME, OPTIMIZER_NAME))
    # With save_only_model neither the optimizer nor the generators' states are kept.
    return [TRAINER_STATE_NAME, weights, *([optimizer] if any(checkpoint.glob("rng_state*.pth")) else [])]


def _check(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt"):
            pass  # the header says how long the file has to be
    elif path.suffix in (".pt", ".pth", ".bin"):  # as torch.save writes them
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"{broken} has a wrong check sum")
    elif path.name == ".metadata":  # of a model in shards
        try:
            metadata = FileSystemReader(path.parent).read_metadata()
        except Exception as error:  # a damaged pickle raises almost anything
            raise ValueError(f"{type(error).__name__}: {error}") from error
        for place in metadata.storage_data.values():
            size, needed = (path.parent / place.relative_path).stat().st_size, place.offset + place.length
            if size < needed:
                raise ValueError(f"{place.relative_path} has {size} bytes, expected {needed} or more")
