"""How the objects of a scene stand to one another, as seen from the camera.

Every predicate answers True, False or None, where None means that the two cases lie too close together for everybody
who looks at the picture to agree. Texts are only made from what is not None.

Left and right are read off the image, by the centres of the boxes. In front and behind are decided by the distance from
the camera, and only where the lower edges of the boxes say the same. Near and far are decided on the table, and only
where the image says the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .rendering import RenderedScene

#: Left/right: the least distance between two box centres, as a fraction of the image's width and of the mean width of
#: the two boxes; both must be reached.
SIDE_MARGIN, SIDE_OVERLAP = 0.03, 0.6
#: In front/behind: the least difference of the distances from the camera, metres.
DEPTH_MARGIN = 0.06
#: In front/behind: the least difference of the boxes' lower edges, as a fraction of the image height.
LOWER_EDGE_MARGIN = 0.02
#: Nearer/further: the least ratio of two distances, on the table and in the image.
DISTANCE_RATIO = 1.3


class SpatialRelations:
    """Relations between the objects of one scene.

    All methods take objects (i, j, a, b) by their 0-based places in ``scene.objects``, and relations by names of
    RELATIONS.

    Args:
        scene: The scene; boxes in pixels of its image, positions in metres of the table frame.
    """

    def __init__(self, scene: RenderedScene[Any]) -> None:
        boxes = np.array([o.box for o in scene.objects], np.float64).reshape(-1, 4)
        self._centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        self._lower_edges = boxes[:, 3]
        self._table = np.array([o.position[:2] for o in scene.objects], np.float64).reshape(-1, 2)
        self._distances = np.array([o.distance for o in scene.objects], np.float64)
        self._widths = boxes[:, 2] - boxes[:, 0]
        self._side_margin = SIDE_MARGIN * scene.width
        self._lower_margin = LOWER_EDGE_MARGIN * scene.height
        self.count = len(scene.objects)

    def left_of(self, i: int, j: int) -> bool | None:
        """Whether i is left of j in the image."""
        offset = self.beside(i, j)
        return None if abs(offset) < 1 else offset > 0

    def beside(self, i: int, j: int) -> float:
        """How far j is to the right of i in the image, in margins (negative: to the left)."""
        margin = max(self._side_margin, SIDE_OVERLAP * (self._widths[i] + self._widths[j]) / 2)
        return float((self._centres[j, 0] - self._centres[i, 0]) / margin)

    def in_front_of(self, i: int, j: int) -> bool | None:
        """Whether i is nearer to the camera than j."""
        nearer = self._distances[j] - self._distances[i]
        lower = self._lower_edges[i] - self._lower_edges[j]
        if abs(nearer) < DEPTH_MARGIN or abs(lower) < self._lower_margin or nearer * lower < 0:
            return None
        return bool(nearer > 0)

    def ahead(self, i: int, j: int) -> float:
        """How much nearer to the camera i is than j, in margins (negative: further)."""
        return float((self._distances[j] - self._distances[i]) / DEPTH_MARGIN)

    def nearest(self, i: int, among: list[int] | None = None) -> int | None:
        """The object that is clearly the nearest to i (of ``among``, by default all others)."""
        others = [j for j in (range(self.count) if among is None else among) if j != i]
        if len(others) < 2:
            return None
        winners = set()
        for places in (self._table, self._centres):
            distances = np.linalg.norm(places[others] - places[i], axis=1)
            order = np.argsort(distances)
            if distances[order[1]] < DISTANCE_RATIO * distances[order[0]]:
                return None
            winners.add(others[int(order[0])])
        return winners.pop() if len(winners) == 1 else None

    def neighbours(self, i: int) -> list[int]:
        """All other objects, those nearest to i in the image first."""
        distances = np.linalg.norm(self._centres - self._centres[i], axis=1)
        return [int(j) for j in np.argsort(distances, kind="stable") if j != i]

    def between(self, i: int, a: int, b: int) -> bool | None:
        """Whether i stands between a and b, on the table and in the image."""
        verdicts = set()
        for places in (self._table, self._centres):
            line = places[b] - places[a]
            length = np.linalg.norm(line)
            if length == 0:
                return None
            offset = places[i] - places[a]
            along = float(offset @ line) / length**2
            aside = abs(float(offset[0] * line[1] - offset[1] * line[0])) / length**2
            if 0.25 <= along <= 0.75 and aside <= 0.18:
                verdicts.add(True)
            elif along < 0.0 or along > 1.0 or aside > 0.45:
                verdicts.add(False)
            else:
                return None
        return verdicts.pop() if len(verdicts) == 1 else None

    def only_between(self, a: int, b: int) -> int | None:
        """The one object between a and b, where there is exactly one and no doubtful case."""
        verdicts = {i: self.between(i, a, b) for i in range(self.count) if i not in (a, b)}
        if None in verdicts.values():
            return None
        found = [i for i, verdict in verdicts.items() if verdict]
        return found[0] if len(found) == 1 else None

    def only(self, relation: str, j: int) -> int | None:
        """The one object that stands in ``relation`` to j, where there is exactly one and no doubtful case."""
        found = self.all_in(relation, j)
        return found[0] if found is not None and len(found) == 1 else None

    def all_in(self, relation: str, j: int) -> list[int] | None:
        """Every object in ``relation`` to j (see RELATIONS), or None where one of them is doubtful."""
        verdicts = {i: self.holds(relation, i, j) for i in range(self.count) if i != j}
        return None if None in verdicts.values() else [i for i, verdict in verdicts.items() if verdict]

    def holds(self, relation: str, i: int, j: int) -> bool | None:
        """Whether i stands in ``relation`` to j; one of RELATIONS, else KeyError."""
        return {
            "left of": lambda: self.left_of(i, j),
            "right of": lambda: self.left_of(j, i),
            "in front of": lambda: self.in_front_of(i, j),
            "behind": lambda: self.in_front_of(j, i),
        }[relation]()

    def clear_relations(self, i: int, j: int) -> list[str]:
        """The relations in which i clearly stands to j, the more pronounced first."""
        found = [(abs(self.beside(i, j)), r) for r in ("left of", "right of") if self.holds(r, i, j)]
        found += [(abs(self.ahead(i, j)), r) for r in ("in front of", "behind") if self.holds(r, i, j)]
        return [relation for _, relation in sorted(found, reverse=True)]


RELATIONS: tuple[str, ...] = ("left of", "right of", "in front of", "behind")
OPPOSITE: dict[str, str] = {"left of": "right of", "right of": "left of",
                            "in front of": "behind", "behind": "in front of"}
#: A relation said of i where what it is compared with has been named.
SAID: dict[str, str] = {"left of": "left", "right of": "right", "in front of": "in front", "behind": "behind"}
#: Why i stands in a relation to j, said of i.
REASON: dict[str, str] = {
    "left of": "is further left in the image", "right of": "is further right in the image",
    "in front of": "is closer to the camera", "behind": "is further from the camera",
}
