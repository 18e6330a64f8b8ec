"""How people and the model speak of regions: "region 2" (an id) outside, <region2> or region2 (a place) inside.

An id is any string a detector gives; a place is the region's position, counted from 1, among those the model was shown.
"""
from __future__ import annotations

import re
from collections.abc import Sequence

_PLACE = re.compile(r"\bregion\s?(\d+)(?!\d)")
_UNFINISHED = re.compile(r"\bregion\s?\d*$")
# What follows "region" is taken for an id if it looks like one; "which region is left of …" names none.
_WORD = r"#?[\w\-./]*\d[\w\-/]*"
_ID_LIKE = re.compile(rf"(?<!<)\bregions?\s*:?\s*(\"[^\"]+\"|'[^']+'|{_WORD})", re.IGNORECASE)
_ID_LIST = re.compile(rf"\bregions\s+{_WORD}(?:(?:\s*,\s*(?:and\s+|or\s+)?|\s+and\s+|\s+or\s+){_WORD})+", re.IGNORECASE)


class UnknownRegionError(ValueError):
    """A text speaks of a region that is not there; the message names it and those that are."""


class RegionText:
    """Translates for one frame. ids: of the regions the model was shown, in their places' order."""

    def __init__(self, ids: Sequence[str], left_out: Sequence[str] = ()):
        self.ids, self._left_out = tuple(ids), frozenset(left_out)
        self._places: dict[str, int] = {}
        for place, region_id in enumerate(self.ids, start=1):
            self._places.setdefault(region_id, place)
        # The longest first: "cup 12" is not "cup 1".
        names = "|".join(re.escape(i) for i in sorted((i for i in self._places if i), key=len, reverse=True))
        one = rf"(?:#\s*)?(?:{names})(?![\w\-])"
        self._mention = re.compile(
            rf"\bregions?\s*{one}(?:(?:\s*,\s*(?:and\s+|or\s+)?|\s+and\s+|\s+or\s+)(?:regions?\s*)?{one})*",
            re.IGNORECASE) if names else None
        self._name = re.compile(rf"({names})(?![\w\-])", re.IGNORECASE) if names else None
        self._folded = {region_id.casefold(): place for region_id, place in reversed(self._places.items())}

    def to_model(self, text: str) -> str:
        """A user's text with every "region <id>" as <regionK>. Raises UnknownRegionError."""
        text = re.sub(r"(\bregions?\s*[:#]?\s*)([\"'])([^\"']+)\2",
                      lambda m: m[1] + m[3] if m[3].casefold() in self._folded else m[0], text, flags=re.IGNORECASE)
        for listed in _ID_LIST.finditer(text):  # "regions 1 and 7": the second would read as a mere number
            for word in re.findall(_WORD, listed[0]):
                if word.strip("#").casefold() not in self._folded:
                    raise UnknownRegionError(self._unknown(word.strip("#")))
        marked = self._mention.sub(self._mark, text) if self._mention else text
        stranger = _ID_LIKE.search(marked)
        if stranger:
            raise UnknownRegionError(self._unknown(stranger[1].strip("\"'.#")))
        return marked

    def _mark(self, mention: re.Match) -> str:
        words = re.sub(r"\bregions?\s*(?:#\s*)?", "", mention[0], flags=re.IGNORECASE)
        return self._name.sub(lambda m: f"<region{self._places.get(m[1]) or self._folded[m[1].casefold()]}>", words)

    def _unknown(self, name: str) -> str:
        if name in self._left_out:
            return (f"region {name!r} was left out: the frame has more regions than the {len(self.ids)} that the model "
                    "takes, those with the highest score")
        shown = ", ".join(self.ids[:20]) + (", …" if len(self.ids) > 20 else "")
        return f"unknown region {name!r}, expected one of this frame's: {shown or 'it has none'}"

    def to_user(self, text: str) -> str:
        """The model's text with its places as "region <id>"; a place that is not there stays as the model wrote it."""
        def name(match: re.Match) -> str:
            place = int(match[1])
            return f"region {self.ids[place - 1]}" if 1 <= place <= len(self.ids) else match[0]

        return _PLACE.sub(name, text)

    def mentioned(self, text: str) -> tuple[str, ...]:
        """The ids a model text speaks of, in the order of first mention."""
        places = dict.fromkeys(int(match[1]) for match in _PLACE.finditer(text))
        return tuple(dict.fromkeys(self.ids[place - 1] for place in places if 1 <= place <= len(self.ids)))

    @staticmethod
    def unfinished(text: str) -> int:
        """How many last characters of a model text may be the beginning of a longer mention."""
        match = _UNFINISHED.search(text)
        return len(match[0]) if match else 0
