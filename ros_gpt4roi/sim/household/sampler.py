"""What the household's question templates draw from, and what may be said of each of its objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ros_gpt4roi.sim.region_sampler import RegionSampler, join, regions_of, sentence, with_article
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

from .catalogue import Kind, kinds
from .relations import SAID_ON, HouseholdRelations, Support
from .scene import TRAINING_SPLITS, HouseholdObject, HouseholdScene
from .wordings import AMBIGUOUS

#: Visible fraction and box side (of the image's height) below which nobody can tell what an object is.
LEAST_VISIBLE, LEAST_SIDE = 0.35, 0.04
#: Visible fraction from which on an object's inside is seen, too.
INSIDE_SEEN = 0.6
_TALL = 1.1  # an upright thing stands, and no other does, where it is so many times as high as wide


def is_clear(scene: HouseholdScene, obj: HouseholdObject) -> bool:
    """Whether enough of an object is seen to tell what it is."""
    side = min(obj.box[2] - obj.box[0], obj.box[3] - obj.box[1])
    return obj.visible >= LEAST_VISIBLE and side >= LEAST_SIDE * scene.height


def posture(obj: HouseholdObject) -> str | None:
    """How an object stands, a name in wordings.POSTURES; None where people would not say."""
    state, kind, (x, y, z) = obj.state, obj.facts, obj.extent
    if kind.furniture or kind.contains or state.inside is not None:
        return None
    if state.posture == "upright":
        return "standing" if z > _TALL * max(x, y) else None
    if state.posture == "lying":
        return "lying" if _TALL * z < max(x, y) else None
    if state.posture == "tilted":
        return "leaning" if len(state.leaning_on) == 1 else None
    return "upside down"


def contents(scene: HouseholdScene, obj: HouseholdObject) -> list[int] | None:
    """0-based places of what is in an object; None where it is no container, is shut, or not all in it can be seen."""
    if not obj.facts.contains or obj.visible < INSIDE_SEEN or set(obj.state.openings.values()) - {"open"}:
        return None
    places = {o.object_index: place for place, o in enumerate(scene.objects)}
    return [places[j] for j in obj.state.holds] if all(j in places for j in obj.state.holds) else None


def look(obj: HouseholdObject) -> str:
    """"white and red ceramic mug"; what its name says already is left out."""
    kind = obj.facts
    material = {"wood": "wooden", "paper": ""}.get(kind.material, kind.material)
    size = "large" if obj.size == "large" else ""
    return " ".join(filter(None, (size, join(obj.colours), "" if material in kind.name else material, kind.name)))


def plural(name: str) -> str:
    """The plural of a kind's name ("cans of tomato sauce", "shelves")."""
    head, of, rest = name.partition(" of ")
    head = head[:-1] + "ves" if head.endswith("lf") else head + ("es" if head.endswith(("x", "sh")) else "s")
    return head + of + rest


class HouseholdSampler(RegionSampler):
    """One scene, its relations and a random generator; objects are 0-based places in `scene.objects`.

    Args:
        scene: The scene.
        rng: Draws objects and wordings.
        relations: Of that scene.
        regions_only: Refer to objects by ``<regionK>`` and never by what they look like.
        it: As of RegionSampler.
        described: Likewise.
        among: Objects to ask about; by default all that are clear.
        named: Say in answers what the regions are that they name.
    """

    def __init__(self, scene: HouseholdScene, rng: np.random.Generator, relations: HouseholdRelations, *,
                 regions_only: bool = False, it: int | None = None, described: frozenset[int] = frozenset(),
                 among: Sequence[int] | None = None, named: bool = True) -> None:
        super().__init__(rng, len(scene.objects), it, described)
        self.scene, self.objects, self.relations = scene, scene.objects, relations
        self.clear = [i for i, o in enumerate(self.objects) if is_clear(scene, o)]
        self.among = self.clear if among is None else list(among)
        self._regions_only, self._named = regions_only, named

    def target(self) -> int:
        """The object to ask about: "it", else one of `among`."""
        if self.it is not None:
            return self.it
        return self.pick([i for i in self.among if i not in self.described] or self.among)

    def kind(self, i: int) -> Kind:
        """What is known of object i's kind."""
        return self.objects[i].facts

    def others(self, i: int) -> list[int]:
        """All other clear objects in random order."""
        return self.shuffled([j for j in self.clear if j != i])

    def name(self, i: int, hide: str = "") -> str:
        """A reference to object i: "it", its region, or a phrase that fits only it and does not tell ``hide``."""
        if i == self.it:
            return "it"
        phrase = None if self._regions_only or hide == "kind" or self.coin(0.6) else self.phrase(i, hide)
        return f"the {phrase}" if phrase else self.number(i)

    def phrase(self, i: int, hide: str = "") -> str | None:
        """A phrase that fits object i and no other ("moka pot", "red mug"); None where there is none."""
        if i not in self.clear:
            return None
        obj = self.objects[i]
        called = self.pick([obj.facts.name, *(s for s in obj.facts.synonyms if s not in AMBIGUOUS)])
        alike = [o for j, o in enumerate(self.objects) if j != i and o.kind == obj.kind]
        coloured = f"{obj.colours[0]} {called}"
        if not alike:
            return coloured if hide != "colour" and self.coin(0.3) else called
        return None if hide == "colour" or any(obj.colours[0] in o.colours for o in alike) else coloured

    def in_word(self, i: int) -> str:
        """"in" or "on": how people say that something is in object i."""
        return "on" if self.objects[i].kind in SAID_ON else "in"

    def answer_for(self, i: int) -> str:
        """Object i as an answer: "<region3>, the mug"; its region alone where it is not clear."""
        return f"{self.number(i)}, the {self.kind(i).name}" if self._named and i in self.clear else self.number(i)

    def evidence(self, i: int) -> str:
        """What object i is, as evidence: "<region3> is a mug"."""
        return f"{self.number(i)} is {with_article(self.kind(i).name)}"

    def listed(self, objects: Sequence[int]) -> str:
        """Several objects as an answer: "<region3> (the mug) and <region5> (the plate)"."""
        return join([f"{self.number(i)} (the {self.kind(i).name})" if self._named else self.number(i)
                     for i in objects])

    def place(self, support: Support) -> str:
        """"on the table", "in <region2>, the bowl", "in the top drawer of <region3>"."""
        if support.other is None:
            return f"{support.word} the table"
        if support.part:
            return f"{support.word} the {support.part} of {self.number(support.other)}"
        return f"{support.word} {self.answer_for(support.other)}"

    def contents(self, i: int) -> list[int] | None:
        """The objects in object i; None where it is no container, is shut, or not all in it can be seen."""
        return contents(self.scene, self.objects[i])

    def may_name(self, kind: Kind) -> bool:
        """Whether a text may say that there is no such thing: to training texts, what is held out does not exist."""
        return self.scene.split not in TRAINING_SPLITS or not kind.held_out

    def may_tell(self, i: int) -> bool:
        """Whether a text may tell a fact about object i's kind: not all facts are told in training."""
        return self.scene.split not in TRAINING_SPLITS or not self.kind(i).use_held_out

    def use_task(self, *objects: int) -> str:
        """The task under which questions about facts of these objects are scored."""
        return "use_untrained" if any(self.kind(i).use_held_out for i in objects) else "use_trained"


def found(sampler: HouseholdSampler, question: str, task: str, form: str, answers: Sequence[int],
          about: Sequence[int], options: int, reason: str = "", nothing: str = "There is none.") -> TextRound:
    """A question whose answer is the regions it asks for; what `nothing` says where there are none."""
    if len(answers) > 1:
        said = sentence(sampler.listed(answers))
    else:
        said = sentence(sampler.answer_for(answers[0])) if answers else nothing
    return TextRound(question, said, task, form,
                     Expected("region", tuple(f"region{i + 1}" for i in sorted(answers)), options),
                     regions_of(*about, *answers), answers[0] if len(answers) == 1 else None, frozenset(answers),
                     reason)


def missing_name(sampler: HouseholdSampler, probability: float) -> str | None:
    """The name of something that is not there, with a probability, where all that is there is seen; None otherwise."""
    if sampler.it is None and len(sampler.clear) == sampler.count and sampler.coin(probability):
        return sampler.pick(absent_kinds(sampler)).name
    return None


def absent_kinds(sampler: HouseholdSampler) -> list[Kind]:
    """Kinds of which nothing is in the scene, and of which that may be said."""
    present = {o.kind for o in sampler.objects}
    return [kind for name, kind in kinds().items() if name not in present and sampler.may_name(kind)]


