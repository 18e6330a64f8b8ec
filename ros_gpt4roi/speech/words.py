"""The words of a scene: what people are likely to speak of."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MOST_IDS, _MOST_THINGS = 12, 24
_LONGEST = 40  # characters of a thing's name


def words_of(regions: Iterable[tuple[str, str, str]]) -> Sequence[str]:
    """What a recogniser is told of a scene, the likeliest first.

    Args:
        regions: Id, detector's label and description of each.

    Returns:
        Such as "region 1", "region 2", "a red mug", "a valve".
    """
    ids, things = [], []
    for region_id, label, text in regions:
        ids.append(f"region {region_id}")
        # "A red mug, left of region 2." is the thing, and where it stands.
        things += [first for first in (re.split(r"[.,;:]| which | that ", text.strip())[0].lower(), label.lower())
                   if 0 < len(first) <= _LONGEST and first.isprintable()]
    return [*dict.fromkeys(ids[:_MOST_IDS]), *list(dict.fromkeys(things))[:_MOST_THINGS]]
