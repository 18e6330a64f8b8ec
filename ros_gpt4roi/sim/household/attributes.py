"""What is to be seen of a thing of a household scene, as classes: what an encoder is taught before any text."""

from __future__ import annotations

from collections.abc import Mapping

from .catalogue import COLOURS, MATERIALS, kinds
from .sampler import is_clear, posture
from .scene import OPENINGS, HouseholdObject, HouseholdScene
from .wordings import POSTURES

_PARTS = ("door", "top drawer", "middle drawer", "bottom drawer")
_NONE = "none"

#: Attribute → its values. The first one tells whether anything else can be said.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "seen": ("hidden", "clear"), "kind": tuple(kinds()), "colour": COLOURS, "second colour": (*COLOURS, _NONE),
    "material": MATERIALS, "size": ("usual", "large"), "posture": tuple(POSTURES),
    **dict.fromkeys(_PARTS, OPENINGS),
}


def attributes(scene: HouseholdScene, obj: HouseholdObject) -> dict[str, str | None]:
    """The attributes of an object, None where it has no such one, or too little of it is seen."""
    if not is_clear(scene, obj):
        return {**dict.fromkeys(ATTRIBUTES), "seen": "hidden"}
    first, *others = obj.colours
    return {"seen": "clear", "kind": obj.kind, "colour": first, "second colour": others[0] if others else _NONE,
            "material": obj.facts.material, "size": obj.size, "posture": posture(obj),
            **{part: obj.state.openings.get(part) for part in _PARTS}}
