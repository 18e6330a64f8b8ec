"""What a model must not forget while it learns something new: some of what it was trained on, or what it says today."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ros_gpt4roi.image_file import encode_image, read_image
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.region_text import RegionText
from ros_gpt4roi.runtime.types import Frame, Region
from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.rendering import RenderedScene
from training.data.bags.regions import with_mentions
from training.data.record import REFERENCE
from training.data.record_file import Conversation, PictureRecord, RecordWriter, RegionRecord, picture_path
from training.data.report import Report

from .corrections import ask, taught
from .worlds import World

logger = logging.getLogger(__name__)
_SEED = 90_210  # of the scenes; training and evaluation use others
_ROUNDS, _DESCRIBED = 2, 5  # of a conversation about a rendered scene, and regions besides


def render_replay(folder: Path, world: World, split: str, scenes: int, seed: int, describe: str) -> None:
    """Write rendered scenes of a world with descriptions and true conversations.

    Args:
        folder: Where to, as a folder of one's own pictures.
        world: Which.
        split: Of its scenes.
        scenes: How many.
        seed: Of scenes and texts.
        describe: The model's question for a description; {region} stands for the region.

    Raises:
        RendererError: Nothing can be rendered here.
        AssetsError: The world's things are not installed.
    """
    with RecordWriter(folder) as writer, world.renderer() as renderer:
        for index in tqdm(range(scenes), unit=" scenes", desc=f"rendering {split}"):
            scene = renderer.render(split, _SEED + seed, index)
            if scene.objects:
                rng = np.random.default_rng([_SEED, seed, index])
                file = writer.add_picture(f"{index:06d}.jpg", encode_image(scene.image))
                writer.write(_scene_record(file, world, permuted(scene, rng), rng, describe))


def _scene_record(file: str, world: World, scene: RenderedScene[Any], rng: np.random.Generator,
                  describe: str) -> PictureRecord:
    regions = [RegionRecord(str(number), item.box, name=world.word(item.kind), description=_named(text), source="world")
               for number, (item, text) in enumerate(zip(scene.objects, world.descriptions(scene, rng)), 1)]
    talk = tuple((_named(turn.question), _named(turn.answer)) for turn in world.conversation(scene, rng, _ROUNDS))
    talks = [Conversation(talk, "world"), *(Conversation(((ask(describe, region), region.description),), "world")
                                            for region in regions[:_DESCRIBED])]
    return PictureRecord(file, scene.width, scene.height, tuple(regions), tuple(talks))


def _named(text: str) -> str:
    return REFERENCE.sub(lambda match: f"<region {match[2]}>", text)


def say_again(folder: Path, pictures: Sequence[tuple[Path, PictureRecord]], pipeline: Pipeline,
              describe: str) -> None:
    """Write pictures with what the model itself says of the regions that nobody corrected.

    Args:
        folder: Where to, as a folder of one's own pictures.
        pictures: (folder, record) of each.
        pipeline: The model before it is retrained.
        describe: The question for a description; {region} stands for the region.

    Raises:
        RecordError: A picture is not there.
    """
    report = Report(len(pictures))
    with RecordWriter(folder) as writer:
        for number, (source, record) in enumerate(tqdm(pictures, unit=" pictures", desc="describing")):
            with report.item(f"{source}: {record.file}"):
                path = picture_path(source, record.file)
                said = describe_regions(pipeline, path, record)
                texts = ["" if taught(region) else said.get(region.id, "") for region in record.regions]
                regions = [dataclasses.replace(region, name=region.name if text else "", description=text,
                                               source="model", judgements=())
                           for region, text in zip(record.regions, texts)]
                names = RegionText([region.id for region in regions])
                talks = [Conversation(((ask(describe, region), with_mentions(region.description, names)),), "model")
                         for region in regions if region.description]
                talks += [talk for talk in record.conversations if talk.source == "model" and not talk.judgements]
                if talks:
                    file = writer.add_picture(f"{number:06d}{path.suffix}", path.read_bytes())
                    writer.write(dataclasses.replace(record, file=file, regions=tuple(regions),
                                                     conversations=tuple(talks), review=()))


def describe_regions(pipeline: Pipeline, picture: Path, record: PictureRecord) -> dict[str, str]:
    """What a model says of a picture's regions, as the node has it described.

    Args:
        pipeline: The model.
        picture: Its file.
        record: With the regions.

    Returns:
        Region's id → its description; without those that were refused.
    """
    said: dict[str, str] = {}
    for part in _parts(record.regions, pipeline.model_config.prompt.max_regions):
        frame = Frame(read_image(picture), tuple(Region(region.id, region.box) for region in part), 0, "")
        said |= {found.region.id: found.text for found in pipeline.describe(frame).descriptions}
        pipeline.reset()
    return said


def _parts(regions: Sequence[RegionRecord], most: int) -> Iterator[Sequence[RegionRecord]]:
    for start in range(0, len(regions), most):
        yield regions[start:start + most]


def earlier_sources(train: dict[str, Any]) -> list[dict[str, Any]]:
    """The data sets that a model was trained on, as its recipe names them.

    Args:
        train: The recipe's section.

    Returns:
        Its sources; empty where they are no mixture, or a file of theirs is not at hand.
    """
    sources = train.get("sources", []) if train.get("kind") == "mixture" else []
    missing = [source["annotations"] for source in sources if not Path(source["annotations"]).is_file()]
    if missing:
        logger.info("%s of the model's recipe is not here: its own answers are the replay", missing[0])
    return [] if missing else [dict(source) for source in sources]
