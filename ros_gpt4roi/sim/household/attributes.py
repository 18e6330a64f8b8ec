"""What is to be seen of a thing of a household scene, as classes: what an encoder is taught before any text."""

from __future__ import annotations

from collections.abc import Mapping

from .catalogue import COLOURS, MATERIALS, kinds
from .sampler import contents, is_clear, posture
from .scene import OPENINGS, TABLE, HouseholdObject, HouseholdScene
from .wordings import POSTURES

_PARTS = ("door", "top drawer", "middle drawer", "bottom drawer")
_NONE = "none"
_EMPTY, _FULL = "empty", "full"
_RESTS = ("on the table", "on something", "in something", "under something")

#: Attribute → its values. The first one tells whether anything else can be said.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "seen": ("hidden", "clear"), "kind": tuple(kinds()), "colour": COLOURS, "second colour": (*COLOURS, _NONE),
    "material": MATERIALS, "size": ("usual", "large"), "posture": tuple(POSTURES),
    **dict.fromkeys(_PARTS, OPENINGS), "contents": (_EMPTY, _FULL), "rests": _RESTS,
}


def attributes(scene: HouseholdScene, obj: HouseholdObject) -> dict[str, str | None]:
    """The attributes of an object, None where it has no such one, or too little of it is seen."""
    if not is_clear(scene, obj):
        return {**dict.fromkeys(ATTRIBUTES), "seen": "hidden"}
    first, *others = obj.colours
    inside = contents(scene, obj)
    return {"seen": "clear", "kind": obj.kind, "colour": first, "second colour": others[0] if others else _NONE,
            "material": obj.facts.material, "size": obj.size, "posture": posture(obj),
            **{part: obj.state.openings.get(part) for part in _PARTS},
            "contents": None if inside is None else _FULL if inside else _EMPTY, "rests": _rests(obj)}


def _rests(obj: HouseholdObject) -> str | None:
    """What carries an object, a name in _RESTS; None where it is furniture, or leans."""
    state = obj.state
    if obj.facts.furniture or state.leaning_on:
        return None
    on_table, on, within, under = _RESTS
    return within if state.inside is not None else under if state.under else on_table if state.on == (TABLE,) else on
