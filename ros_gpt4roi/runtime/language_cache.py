"""Language models that were quantised when they were loaded are kept on disk, so that later starts only read them.

They lie in the engine cache, under the name of the model's folder: where a model is installed, nothing may be writable.
"""
from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

from ..engine import EngineError
from ..engine.cache import EngineCache, model_entry
from ..engine.profiles import EngineOptions
from ..model.checkpoint import CheckpointError, LoadedModel, LoadedQwen3VL, folder_version
from ..model.checkpoint_files import WeightsFile
from ..regular_file import file_digest, read_regular, write_whole
from .language_format import QUANTISED, load_model, load_quantised, quantised_file, write_quantised

logger = logging.getLogger(__name__)

_LEAST = 256 << 20  # bytes of weights: what is smaller is converted again in about a second
_WAIT_S = 900.0  # for another process that converts the same model
_NOT_KEPT = "%s: its language model in %s cannot be kept for the next start: %s"


def load_kept(folder: str | Path, number_format: str, device: str,
              options: EngineOptions) -> LoadedModel | LoadedQwen3VL:
    """As `load_model`, but what had to be quantised is kept, and read when the same model is loaded again.

    Where it cannot be kept, the log says why, and the model is loaded all the same.

    Args:
        folder: As of `load_model`.
        number_format: As of `load_model`.
        device: As of `load_model`.
        options: Say where the cache is.

    Raises:
        ValueError, CheckpointError: As of `load_model`.
    """
    folder = Path(folder)
    size = sum(path.stat().st_size for path in folder.glob("model*.safetensors") if path.is_file())
    if number_format not in QUANTISED or quantised_file(folder, number_format).exists() or size < _LEAST:
        return load_model(folder, number_format, device)
    try:
        file = _KeptFile(folder, number_format, options.open_cache())
    except (OSError, EngineError) as error:
        logger.warning(_NOT_KEPT, folder, number_format, error)
        return load_model(folder, number_format, device)
    if (loaded := file.load(device)) is not None:
        return loaded
    with contextlib.ExitStack() as stack:
        try:
            waited = stack.enter_context(file.cache.lock(file.path.stem, _WAIT_S))
        except (OSError, EngineError) as error:
            logger.warning(_NOT_KEPT, folder, number_format, error)
            return load_model(folder, number_format, device)
        if waited and (loaded := file.load(device)) is not None:
            return loaded
        begun = time.monotonic()
        loaded = load_model(folder, number_format, device)
        logger.info("%s: language model converted to %s in %.0f s", folder, number_format, time.monotonic() - begun)
        file.store(loaded)
    return loaded


class _KeptFile:
    """The file of one model in one format, with its SHA-256 in a second one, as `sha256sum --check` reads it."""

    def __init__(self, folder: Path, number_format: str, cache: EngineCache):
        if not cache.lasting:
            raise EngineError(f"{cache.folder} lasts as long as this process")
        self.cache, self._folder, self._format = cache, folder, number_format
        self.path = cache.folder / f"{model_entry(folder)}.language-{number_format}.safetensors"
        self._sum = self.path.with_suffix(".sha256")
        self._notes = {"checkpoint": folder_version(folder), "folder": str(folder.resolve())}

    def load(self, device: str) -> LoadedModel | LoadedQwen3VL | None:
        """The model; None where there is no file of just these weights, or a damaged one."""
        if not self.path.is_file():
            return None
        begun = time.monotonic()
        try:
            checkpoint = WeightsFile.open(self.path).metadata.get("checkpoint")
            if checkpoint != self._notes["checkpoint"]:
                raise CheckpointError(f"{self.path}: stale, of {checkpoint}, not of {self._notes['checkpoint']}")
            expected, digest = read_regular(self._sum).split()[:1], file_digest(self.path)
            if expected != [digest.encode()]:
                raise CheckpointError(f"{self.path}: damaged, its SHA-256 is {digest}, not that of {self._sum.name}")
            loaded = load_quantised(self._folder, self.path, self._format, device)
        except (OSError, CheckpointError) as error:
            logger.warning("the language model is quantised again: %s", error)
            return None
        logger.info("%s: language model in %s read from %s in %.1f s", self._folder, self._format, self.path,
                    time.monotonic() - begun)
        return loaded

    def store(self, loaded: LoadedModel | LoadedQwen3VL) -> None:
        """Write the file; the log says how large it is, or why there is none."""
        begun = time.monotonic()
        try:
            self._remove_unneeded()
            digest = write_quantised(loaded.model.language, self._format, self.path, self._notes)
            write_whole(self._sum, f"{digest}  {self.path.name}\n".encode())
            logger.info("kept for later starts: %s (%.2f GB, written in %.0f s)", self.path,
                        self.path.stat().st_size / 1e9, time.monotonic() - begun)
        except OSError as error:
            logger.warning(_NOT_KEPT, self._folder, self._format, error)

    def _remove_unneeded(self) -> None:
        """Remove what was here before, and the files of models that are gone: each has the size of a model."""
        for path in self.cache.folder.glob("*.language-*.safetensors"):
            with contextlib.suppress(CheckpointError):
                folder = WeightsFile.open(path).metadata.get("folder", "")
                if path != self.path and Path(folder).is_dir():
                    continue
            if path != self.path:
                logger.info("removing %s: the model's folder is gone", path)
            path.unlink(missing_ok=True)
            path.with_suffix(".sha256").unlink(missing_ok=True)
