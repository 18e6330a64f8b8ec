"""Data sets, a file each; every one yields training.data.record.Record. Training reads them through `open_dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.model.config import ModelConfig
from ros_gpt4roi.model.qwen3_vl import Qwen3VLConfig
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.sim.studio import RendererError
from training.data.record import RecordError as DataError

__all__ = ["DataError", "check_section", "open_dataset"]


@dataclass(frozen=True)
class ShardsOptions(Configuration):
    """A data section of kind shards."""

    index: str = setting(MISSING, "Path or web address of the shards' index.json.")
    malformed_limit: int = setting(100, "Samples that may be malformed, in one process.", at_least=0)


def check_section(section: Mapping[str, Any]) -> Any:
    """Checks the options of a recipe's ``train`` or ``validation`` section without opening anything.

    Args:
        section: {"kind": "tabletop", …} with the fields of `TabletopOptions`, {"kind": "household", …} with those of
            `HouseholdOptions`, {"kind": "shards", …} with those of `ShardsOptions`, or {"kind": "mixture", …} with
            those of `Shared` and ``sources``, as `open_mixture` reads them.

    Returns:
        The options.

    Raises:
        DataError: the kind is unknown, or an option is unknown, missing or wrong.
    """
    # Imported late: `python -m training.data.tabletop` must not find itself imported already.
    from training.data.household import HouseholdOptions
    from training.data.mixture import parse_section
    from training.data.source import parse_options
    from training.data.tabletop import TabletopOptions

    values = dict(section)
    kind = values.pop("kind", None)
    if kind == "mixture":
        return parse_section(values)[0]
    kinds = {"tabletop": TabletopOptions, "household": HouseholdOptions, "shards": ShardsOptions}
    if kind not in kinds:
        raise DataError(f"kind is {kind!r}, expected one of {', '.join(sorted((*kinds, 'mixture')))}")
    return parse_options(kinds[kind], values, kind)


def open_dataset(section: Mapping[str, Any], folder: str | Path, seed: int,
                 config: ModelConfig | Qwen3VLConfig) -> Dataset:
    """The data set of a recipe's ``train`` or ``validation`` section.

    Args:
        section: See `check_section`. Shards are a stream without an end, for stages with max_steps.
        folder: The run's, where rendered scenes go.
        seed: Of everything drawn.
        config: Of the model that is trained.

    Returns:
        A data set of training.data.sample.Sample.

    Raises:
        DataError: the section or its files cannot be used.
    """
    options = check_section(section)
    kind = section["kind"]
    if kind == "mixture":
        from training.data.mixture import MixtureDataset, open_mixture

        mixture = open_mixture({name: value for name, value in section.items() if name != "kind"}, seed)
        return MixtureDataset(mixture, config)
    if kind == "shards":
        from training.data.shards import ShardDataset

        return ShardDataset(options.index, seed, config, options.malformed_limit)
    from training.data.household import HouseholdDataset
    from training.data.rendered import RenderedDataset
    from training.data.scene_files import ScenesError, render_scenes
    from training.data.tabletop import TabletopDataset

    if isinstance(config, Qwen3VLConfig):
        raise DataError(f"{kind}: its scenes are rendered for a model of one image size, expected kind mixture or "
                        "shards for a Qwen3-VL")
    worlds: dict[str, type[RenderedDataset[Any]]] = {"tabletop": TabletopDataset, "household": HouseholdDataset}
    rendered = worlds[kind]
    try:
        scenes = Path(folder) / "scenes" / f"{options.split}-{options.seed}"
        render_scenes(rendered.world, scenes, options.split, options.scenes, options.seed,
                      preprocess=config.preprocess, masks=options.masks > 0)
        return rendered(scenes, seed, options.texts, options.scenes, model=config, masks=options.masks,
                        points=options.points, jitter=options.jitter)
    except (ScenesError, AssetsError, RendererError, ValueError) as error:
        raise DataError(f"{kind}: {error}") from error
