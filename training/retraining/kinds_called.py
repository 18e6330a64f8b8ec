"""How many things a model calls by their kind when it describes them, also of kinds that its training did not have.

`training.evaluation` asks about the kinds that a model was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tqdm import tqdm

from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.types import Frame, Region

from .worlds import World

Counts = dict[str, tuple[int, int]]


def count_kinds(pipeline: Pipeline, world: World, split: str, seed: int, scenes: int,
                check: Callable[[], None] = lambda: None) -> Counts:
    """Have scenes described, as the node does, and count the things that are called by their kind and no other.

    Args:
        pipeline: The model.
        world: Whose scenes.
        split: A split of the world's.
        seed: Of the scenes.
        scenes: How many, the first of their split and seed.
        check: Called for every scene; what it raises ends it.

    Returns:
        Kind → how many were called by it, of how many of which enough is seen.

    Raises:
        RendererError: Nothing can be rendered here.
        AssetsError: The world's things are not installed.
    """
    counts: Counts = {}
    with world.renderer() as renderer:
        for index in tqdm(range(scenes), unit=" scenes", desc=f"describing {split}", disable=None):
            check()
            scene = renderer.render(split, seed, index)
            frame = Frame(scene.image, tuple(Region(str(place), item.box)
                                             for place, item in enumerate(scene.objects, 1)), 0, "")
            said = {found.region.id: found.text for found in pipeline.describe(frame).descriptions}
            pipeline.reset()
            for place, item in enumerate(scene.objects, 1):
                if world.can_tell(scene, item):
                    right, count = counts.get(item.kind, (0, 0))
                    called = world.kinds_called(said.get(str(place), ""))
                    counts[item.kind] = right + (called == {item.kind}), count + 1
    return counts


def share(counts: Counts, kinds: Sequence[str]) -> float | None:
    """The part of the things of some kinds that was called by their kind, 0 to 1; None where there were none."""
    found = [counts[kind] for kind in kinds if kind in counts]
    total = sum(count for _, count in found)
    return sum(right for right, _ in found) / total if total else None
