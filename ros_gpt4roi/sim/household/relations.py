"""How the objects of a household scene stand to one another, as people would say it who see the picture.

Every predicate answers True, False or None, where None means that the two cases lie too close together for everybody to
agree, or that the word would not be used. On, in, under and leaning are read from the states, which are the physics'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ros_gpt4roi.sim.spatial_relations import DEPTH_MARGIN, SpatialRelations

from .scene import TABLE, HouseholdScene

#: Next to: the most metres between two things' sides, and the least where they are not.
NEXT_TO, APART = 0.05, 0.2
#: In front/behind: the least difference of the distances, as a fraction of the mean width of the two things.
DEPTH_OVERLAP = 0.5
#: What is in one of these is said to be on it.
SAID_ON = ("shelf", "tray")


@dataclass(frozen=True)
class Support:
    """What an object is on, in or under.

    Attributes:
        word: "on", "in" or "under".
        other: 0-based place of the other object in the scene's; None for the table.
        part: In which drawer; empty where it has none.
    """

    word: str
    other: int | None
    part: str = ""


class HouseholdRelations(SpatialRelations):
    """Relations between the objects of one scene.

    In front and behind go by how far things are from the camera along the table, so that tall ones are not nearer, and
    only where the distances from the lens say the same. What carries or holds another thing is neither beside nor in
    front of it.

    Args:
        scene: The scene; its camera position is needed.
    """

    def __init__(self, scene: HouseholdScene) -> None:
        super().__init__(scene)
        self._objects = scene.objects
        self._places = {o.object_index: place for place, o in enumerate(scene.objects)}
        self._from_lens = self._distances
        self._distances = np.linalg.norm(self._table - np.array(scene.camera_position[:2]), axis=1)
        self._half = np.array([o.extent[:2] for o in scene.objects], np.float64).reshape(-1, 2) / 2
        self._below = [self._carriers(i) for i in range(self.count)]

    def _carriers(self, i: int) -> set[int]:
        """Object indices of what object i is on, in, under or leaning on, and what those are."""
        states = {o.object_index: o.state for o in self._objects}
        found: set[int] = set()
        waiting = [self._objects[i].object_index]
        while waiting:
            state = states.get(waiting.pop())
            if state is not None:
                inside = () if state.inside is None else (state.inside[0],)
                new = {*state.on, *inside, *state.under, *state.leaning_on} - {TABLE} - found
                found |= new
                waiting += new
        return found

    def support(self, i: int) -> Support | None:
        """What object i is in, under or on; None where that is no region, or is several things."""
        state = self._objects[i].state
        if state.inside is not None:
            other = self._places.get(state.inside[0])
            if other is None:
                return None
            return Support("on" if self._objects[other].kind in SAID_ON else "in", other, state.inside[1])
        if state.leaning_on:
            return None
        word, others = ("under", state.under) if state.under else ("on", state.on)
        if others == (TABLE,):
            return Support("on", None)
        places = [self._places[other] for other in others if other in self._places]
        return Support(word, places[0]) if len(places) == len(others) == 1 else None

    def leans_on(self, i: int) -> int | None:
        """The one object that object i leans on."""
        leaning = self._objects[i].state.leaning_on
        return self._places.get(leaning[0]) if len(leaning) == 1 else None

    def stacked(self, i: int, j: int) -> bool:
        """Whether one of two objects carries, holds, covers or props up the other."""
        return self._objects[i].object_index in self._below[j] or self._objects[j].object_index in self._below[i]

    def left_of(self, i: int, j: int) -> bool | None:
        """Whether i is left of j in the image."""
        return None if self.stacked(i, j) else super().left_of(i, j)

    def in_front_of(self, i: int, j: int) -> bool | None:
        """Whether i is nearer to the camera than j."""
        if self.stacked(i, j) or abs(self.ahead(i, j)) * DEPTH_MARGIN < DEPTH_OVERLAP * self._half[[i, j]].mean() * 2:
            return None
        found = super().in_front_of(i, j)
        return found if found == (self._from_lens[i] < self._from_lens[j]) else None

    def next_to(self, i: int, j: int) -> bool | None:
        """Whether i and j stand side by side on the table."""
        supports = self.support(i), self.support(j)
        if any(its is None or its.word != "on" or its.other is not None for its in supports):
            return None
        gap = self._gap(i, j)
        return True if gap < NEXT_TO else False if gap > APART else None

    def _gap(self, i: int, j: int) -> float:
        """Metres between the upright boxes around two objects, seen from above."""
        apart = np.abs(self._table[i] - self._table[j]) - self._half[i] - self._half[j]
        return float(np.linalg.norm(np.maximum(apart, 0)))

    def nearest(self, i: int, among: list[int] | None = None) -> int | None:
        """The object that is clearly the nearest to i (of ``among``, by default all others)."""
        others = [j for j in (range(self.count) if among is None else among) if j != i]
        if self._is_wide(i) or any(self.stacked(i, j) for j in others):
            return None
        found = super().nearest(i, [j for j in others if not self._is_wide(j)])
        if found is None:
            return None
        distance = np.linalg.norm(self._table[i] - self._table[found])
        return None if any(self._gap(i, j) < distance for j in others if self._is_wide(j)) else found

    def between(self, i: int, a: int, b: int) -> bool | None:
        """Whether i stands between a and b, on the table and in the image."""
        if self.stacked(i, a) or self.stacked(i, b) or self.stacked(a, b) or any(map(self._is_wide, (i, a, b))):
            return None
        return super().between(i, a, b)

    def only_between(self, a: int, b: int) -> int | None:
        """The one object between a and b, where there is exactly one and no doubtful case.

        Furniture, and what is on, in or under one of the two, does not count.
        """
        verdicts = {i: self.between(i, a, b) for i in range(self.count) if i not in (a, b) and not self._is_wide(i)
                    and not self.stacked(i, a) and not self.stacked(i, b)}
        found = [i for i, verdict in verdicts.items() if verdict]
        return found[0] if len(found) == 1 and None not in verdicts.values() else None

    def _is_wide(self, i: int) -> bool:
        return self._objects[i].facts.furniture
