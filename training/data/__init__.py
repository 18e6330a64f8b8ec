"""Data sets, a file each; every one yields training.data.record.Record. Training reads them through `open_dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ros_gpt4roi.model.config import PreprocessConfig, preset
from training.data.record import RecordError as DataError

__all__ = ["DataError", "open_dataset"]


def open_dataset(
    source: Mapping[str, Any], folder: str | Path, seed: int, texts: str, preprocess: PreprocessConfig | None = None
) -> Dataset:
    """The data set of a recipe's ``train`` or ``validation`` section, as samples of training.collate.

    source: {"kind": "tabletop", "split", "scenes", "seed"} or {"kind": "mixture", …} as `open_mixture` reads it,
        or {"kind": "shards", "index": …/index.json, "malformed_limit": 100}, a stream without an end, for stages with
        max_steps.
    folder: the run's, where rendered scenes go. texts: "short" or "long" (tabletop; a mixture's sources decide theirs).
    preprocess: of the model that is trained; by default that of the embedded one.
    Raises DataError where the section or its files cannot be used.
    """
    # Imported late: both need what imports this package.
    from training.data.mixture import MixtureDataset, open_mixture
    from training.data.tabletop import TabletopDataset, TabletopError, render_scenes

    values = dict(source)
    kind = values.pop("kind", None)
    preprocess = preset("tabletop").preprocess if preprocess is None else preprocess
    if kind == "mixture":
        return MixtureDataset(open_mixture(values, seed), preprocess)
    if kind == "shards":
        from training.data.shards import ShardDataset

        if not {"index"} <= set(values) <= {"index", "malformed_limit"}:
            raise DataError(f"shards: options {sorted(values)}, expected index and malformed_limit")
        return ShardDataset(seed=seed, preprocess=preprocess, **values)
    if kind != "tabletop":
        raise DataError(f"kind is {kind!r}, expected tabletop, mixture or shards")
    try:
        scenes = Path(folder) / "scenes" / f"{values['split']}-{values['seed']}"
        render_scenes(scenes, values["split"], values["scenes"], values["seed"], preprocess=preprocess)
        return TabletopDataset(scenes, seed, texts, values["scenes"])
    except (TabletopError, ValueError) as error:
        raise DataError(f"tabletop: {error}") from error
    except KeyError as error:
        raise DataError(f"tabletop: missing option {error}") from None
