"""The simulated worlds in which retraining is shown and measured, and what a person there knows of their things."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from typing_extensions import override

from ros_gpt4roi.sim.household import conversations as household
from ros_gpt4roi.sim.household.catalogue import kinds
from ros_gpt4roi.sim.household.questions import long_text
from ros_gpt4roi.sim.household.relations import HouseholdRelations
from ros_gpt4roi.sim.household.sampler import HouseholdSampler, is_clear, look
from ros_gpt4roi.sim.household.scene import HouseholdObject, HouseholdScene
from ros_gpt4roi.sim.household.scoring import said_kinds, score
from ros_gpt4roi.sim.household.wordings import HIDDEN
from ros_gpt4roi.sim.region_sampler import sentence, with_article
from ros_gpt4roi.sim.rendering import WorldRenderer
from ros_gpt4roi.sim.tabletop import conversations as tabletop
from ros_gpt4roi.sim.tabletop.question_sampler import short_text
from ros_gpt4roi.sim.tabletop.scene import COLOURS, KINDS, MATERIALS, SIZES, WORKSHOP_KINDS, Scene, SceneObject
from ros_gpt4roi.sim.text_rounds import Expected, TextRound
from ros_gpt4roi.sim.worlds import HOUSEHOLD, RENDERERS, TABLETOP


def words(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(re.findall(r"\w+", text.casefold()))


class World(ABC):
    """What differs between the worlds.

    Attributes:
        name: Of the world, and of the embedded model that describes it.
        split: Whose scenes have things of new kinds, beside those of old ones.
        new_kinds: Kinds that the embedded model has never seen.
        old_kinds: Those that it knows.
        image_size: Width and height of the camera's pictures in pixels.
        least_wrong: So many descriptions of a scene of `split` the embedded model gets wrong, or more, on the average.
    """

    name: str
    split: str
    new_kinds: tuple[str, ...]
    old_kinds: tuple[str, ...]
    image_size: tuple[int, int]
    least_wrong: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds."""
        return *self.old_kinds, *self.new_kinds

    def renderer(self) -> WorldRenderer[Any, Any]:
        """Renders scenes of this world. Raises RendererError, or AssetsError, where that can't be done here."""
        return RENDERERS[self.name](*self.image_size)

    @abstractmethod
    def can_tell(self, scene: Any, item: Any) -> bool:
        """Whether enough is seen of a thing to say what it is."""

    @abstractmethod
    def right_text(self, item: Any) -> str:
        """A true description of a thing."""

    @abstractmethod
    def is_right(self, item: Any, said: str) -> bool:
        """Whether a description of a thing is true."""

    @abstractmethod
    def descriptions(self, scene: Any, rng: np.random.Generator) -> list[str]:
        """What the embedded model was taught to say of each thing of a scene, regions as `<regionK>`."""

    @abstractmethod
    def conversation(self, scene: Any, rng: np.random.Generator, rounds: int) -> list[TextRound]:
        """A conversation about a scene as the embedded model was taught, of at most so many rounds."""

    @abstractmethod
    def kinds_called(self, said: str) -> set[str]:
        """The kinds that a description calls its thing by."""

    @abstractmethod
    def word(self, kind: str) -> str:
        """The word for a kind, as descriptions use it."""


class Tabletop(World):
    """Plain shapes; in the workshop half of them are rings and stars."""

    name, split, image_size = TABLETOP, "workshop", (320, 240)  # as what the embedded model was trained on
    new_kinds, old_kinds, least_wrong = WORKSHOP_KINDS, KINDS, 2

    @override
    def can_tell(self, scene: Scene, item: SceneObject) -> bool:
        return True

    @override
    def right_text(self, item: SceneObject) -> str:
        return sentence(short_text(item))

    @override
    def is_right(self, item: SceneObject, said: str) -> bool:
        looks = {*self.kinds, *COLOURS, *SIZES, *MATERIALS}
        return looks & words(said) == {item.kind, item.colour, item.size, item.material}

    @override
    def descriptions(self, scene: Scene, rng: np.random.Generator) -> list[str]:
        return [turn.answer for turn in tabletop.short_rounds(scene)]

    @override
    def conversation(self, scene: Scene, rng: np.random.Generator, rounds: int) -> list[TextRound]:
        return tabletop.conversation(scene, rng, rounds)

    @override
    def kinds_called(self, said: str) -> set[str]:
        return words(said).intersection(self.kinds)

    @override
    def word(self, kind: str) -> str:
        return kind


class Household(World):
    """Household things; three kinds, every fifth texture and low cameras are in no scene of training."""

    name, split, image_size = HOUSEHOLD, "unseen", (640, 480)
    least_wrong = 1

    def __init__(self) -> None:
        self.new_kinds = tuple(name for name, kind in kinds().items() if kind.held_out)
        self.old_kinds = tuple(name for name, kind in kinds().items() if not kind.held_out)

    @override
    def can_tell(self, scene: HouseholdScene, item: HouseholdObject) -> bool:
        return is_clear(scene, item)

    @override
    def right_text(self, item: HouseholdObject) -> str:
        return sentence(with_article(look(item)))

    @override
    def is_right(self, item: HouseholdObject, said: str) -> bool:
        return score(Expected("describe", (item.kind, item.facts.material, *item.colours), len(self.kinds)), said)

    @override
    def descriptions(self, scene: HouseholdScene, rng: np.random.Generator) -> list[str]:
        sampler = HouseholdSampler(scene, rng, HouseholdRelations(scene), regions_only=True)
        return [long_text(sampler, i) if i in sampler.clear else HIDDEN for i in range(sampler.count)]

    @override
    def conversation(self, scene: HouseholdScene, rng: np.random.Generator, rounds: int) -> list[TextRound]:
        return household.conversation(scene, rng, rounds)

    @override
    def kinds_called(self, said: str) -> set[str]:
        return set(said_kinds(said.split(". ")[0])[:1])  # what follows says what it stands on, and beside

    @override
    def word(self, kind: str) -> str:
        return kinds()[kind].name


WORLDS: Mapping[str, World] = {world.name: world for world in (Tabletop(), Household())}
