"""Models without the language model that they were trained from, which is ten times as large and comes as a package.

Such a folder has all other weights, and of the language model's matrices what training has added to them, as the
factors of low rank that it learned. Its config.json names the language model, a name in `pretrained.PARTS`, and the
SHA-256 of the package's file and of the weights. `complete` makes the whole model of it once, where `find_model` then
finds it:

    python -m ros_gpt4roi.model complete models/household
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..paths import completed_model, model_places
from ..regular_file import file_digest
from .checkpoint import CheckpointError, read_config, unshared, write_config
from .checkpoint_files import CONFIG_FILE, WEIGHTS_FILE, check_regular, read_content
from .config import ModelConfig
from .convert import plan_completion
from .convert_parts import change_keys
from .gpt4roi import GPT4RoI
from .pretrained import PARTS, not_written
from .weights_io import WeightSource

_LANGUAGE = "language."
_UNFINISHED, _ABANDONED_S = ".unfinished-", 24 * 3600.0


def save_without_base(model: GPT4RoI, base: str, changes: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
                      folder: Path) -> None:
    """Write a model without its language model, in half precision.

    Args:
        model: The model.
        base: What its language model was before it was trained, a name in `PARTS`.
        changes: Of the matrices of the language model that training has changed, by their names there, `down`
            [rank, in] and `up` [out, rank], whose product was added.
        folder: The folder to write.

    Raises:
        CheckpointError: No such language model is known, or the folder cannot be written.
    """
    if base not in PARTS:
        raise CheckpointError(f"no language model {base!r} is known, expected one of {', '.join(sorted(PARTS))}")
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith(_LANGUAGE)}
    for name, factors in changes.items():
        kept |= zip(change_keys(_LANGUAGE + name), factors)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in unshared(kept).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(halves, folder / WEIGHTS_FILE, metadata={"format": "ros_gpt4roi"})
        (folder / WEIGHTS_FILE).chmod(0o644)
        write_config(model.config, folder, base={"part": base, "sha256": PARTS[base].sha256,
                                                 "weights_sha256": file_digest(folder / WEIGHTS_FILE)})
    except (OSError, SafetensorError) as error:
        raise not_written(folder, error) from error


def incomplete_models() -> list[Path]:
    """The folders of installed models that came without their language model."""
    folders = (folder for place in model_places() if place.is_dir() for folder in sorted(place.iterdir()))
    by_whole = {completed_model(folder): folder for folder in folders}  # the installed and the source's are one
    return [folder for whole, folder in by_whole.items() if whole is not None]


def complete(folder: Path) -> Path:
    """Make the whole model of one without its language model, unless it is there already.

    Args:
        folder: As `save_without_base` writes it.

    Returns:
        The folder of the whole model, which has the other files, too; where the model is whole, its own.

    Raises:
        CheckpointError: There is no model, the language model's package is not installed, a file is not the one that
            the model names, or there is no room.
    """
    content, target = read_content(folder), completed_model(folder)
    if target is None:
        return folder
    if _is_sound(target):
        return target
    base, weights = content["base"], folder / WEIGHTS_FILE
    config = read_config(folder, whole=False)
    try:
        part, expected, digest = PARTS[base["part"]], base["sha256"], base["weights_sha256"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {type(error).__name__}: {error}, expected base with part (one "
                              f"of {', '.join(sorted(PARTS))}), sha256 and weights_sha256") from error
    if part.sha256 != expected:
        raise CheckpointError(f"{folder}: made of {base['part']} with SHA-256 {expected}, this version knows the one "
                              f"with {part.sha256}")
    try:
        found = file_digest(weights)
    except OSError as error:
        raise CheckpointError(f"{weights}: {error.strerror}, expected the model's weights: fetch it anew") from error
    if found != digest:
        raise CheckpointError(f"{weights}: SHA-256 {found}, expected {digest}: fetch it anew")
    try:
        _write(folder, part.find(), part.unpack, config, target)
    except (OSError, SafetensorError) as error:
        raise not_written(target, error) from error
    return target


def _is_sound(whole: Path) -> bool:
    """Whether a whole model is there as it was written, which a power cut or a full disk may have prevented."""
    try:
        read_config(whole)
        WeightSource(whole).check_sums()
    except (CheckpointError, OSError, ValueError):
        return False
    return True


def _write(folder: Path, source: Path, unpack: Callable[[Path, Path], None], config: ModelConfig,
           target: Path) -> None:
    """Make the whole model, in place of what was made of earlier contents of its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target.parent.parent)
    with tempfile.TemporaryDirectory(dir=target.parent.parent, prefix=_UNFINISHED) as name:
        language, whole = Path(name) / "language", Path(name) / "whole"
        language.mkdir()
        unpack(source, language)
        shutil.copytree(folder, whole, ignore=_left_out, copy_function=shutil.copyfile)
        for path in (whole, *whole.rglob("*/")):
            path.chmod(0o755)  # the model's may be write-protected
        plan_completion(folder / WEIGHTS_FILE, language, config).run(whole, progress=False)
        try:
            os.rename(whole, target)
        except OSError:
            if not _is_sound(target):  # else another process was faster
                shutil.rmtree(target, ignore_errors=True)
                os.rename(whole, target)
    made_of = os.fsencode(folder.resolve())
    _origin(target).write_bytes(made_of)
    for other in (place / target.name for place in target.parent.parent.iterdir()):
        if other != target and _origin(other).is_file() and _origin(other).read_bytes() == made_of:
            shutil.rmtree(other, ignore_errors=True)
            _origin(other).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # of the same contents others are made, too
                other.parent.rmdir()


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What is not copied from a folder of a model. Raises CheckpointError for a device or pipe in it."""
    check_regular(folder)
    return {CONFIG_FILE, WEIGHTS_FILE} & {*names}


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left: half a gigabyte each time."""
    for path in folder.glob(_UNFINISHED + "*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path)


def _origin(whole: Path) -> Path:
    """The file that says which folder a model was made of: models of one name may be those of several folders."""
    return whole.with_name(whole.name + ".origin")
