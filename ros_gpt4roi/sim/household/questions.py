"""Questions about a household scene with their true answers, one function a form, from ground truth only.

Each takes a `HouseholdSampler` and returns a round, or None where the scene gives no such question. Nothing is asked
whose answer could be disputed (see relations.py).
"""

from __future__ import annotations

from collections.abc import Callable

from ros_gpt4roi.sim.region_sampler import join, regions_of, sentence, with_article
from ros_gpt4roi.sim.spatial_relations import OPPOSITE, REASON, RELATIONS, SAID
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

from .catalogue import COLOURS, MATERIALS, kinds
from .sampler import HouseholdSampler, absent_kinds, found, look, missing_name, plural, posture
from .wordings import HIDDEN, POSTURES, QUESTIONS, UNKNOWN

Form = Callable[[HouseholdSampler], TextRound | None]
_OF_SCORING = {"left of": "left", "right of": "right", "in front of": "front", "behind": "behind"}


def question(sampler: HouseholdSampler, form: str, *names: str) -> str:
    """One of the wordings of a form."""
    return sampler.pick(QUESTIONS[form]).format(*names)


# ---------------------------------------------------------------------------------------------- what it looks like

def short(sampler: HouseholdSampler) -> TextRound:
    """What one object is, in a few words."""
    i = sampler.target()
    return named(sampler, i, question(sampler, "short", sampler.number(i)))


def named(sampler: HouseholdSampler, i: int, asked: str) -> TextRound:
    """The short description of one object, or that it can't be told."""
    if i not in sampler.clear:
        return TextRound(asked, HIDDEN, "kind", "hidden", Expected("unknown", (), len(kinds())), regions_of(i))
    return TextRound(asked, sentence(with_article(look(sampler.objects[i]))), "describe", "short",
                     _described(sampler, i), regions_of(i), i, frozenset({i}))


def _described(sampler: HouseholdSampler, i: int) -> Expected:
    obj = sampler.objects[i]
    return Expected("describe", (obj.kind, obj.facts.material, *obj.colours), len(kinds()) * len(COLOURS))


def kind(sampler: HouseholdSampler) -> TextRound:
    """What one object is."""
    i = sampler.target()
    known = sampler.kind(i)
    return TextRound(question(sampler, "kind", sampler.name(i, hide="kind")), f"It is {with_article(known.name)}.",
                     "kind", "kind", Expected("kind", (sampler.objects[i].kind,), len(kinds())), regions_of(i), i)


def hidden(sampler: HouseholdSampler) -> TextRound | None:
    """What one object is of which too little is seen."""
    unclear = [i for i in range(sampler.count) if i not in sampler.clear]
    if not unclear or sampler.it is not None:
        return None
    i = sampler.pick(unclear)
    form = sampler.pick(("kind", "colour", "use", "material"))
    return TextRound(question(sampler, form, sampler.number(i)), HIDDEN, "kind", "hidden",
                     Expected("unknown", (), len(kinds())), regions_of(i))


def colour(sampler: HouseholdSampler) -> TextRound:
    """What colours one object has."""
    i = sampler.target()
    colours = sampler.objects[i].colours
    said = sampler.pick(("It is {0}.", "It is mostly {1}, with some {2}.") if len(colours) > 1 else ("It is {0}.",))
    return TextRound(question(sampler, "colour", sampler.name(i, hide="colour")),
                     said.format(join(colours), colours[0], colours[-1]), "colour", "colour",
                     Expected("colour", colours, len(COLOURS)), regions_of(i), i)


def material(sampler: HouseholdSampler) -> TextRound:
    """What one object is made of."""
    i = sampler.target()
    value = sampler.kind(i).material
    return TextRound(question(sampler, "material", sampler.name(i)),
                     sampler.pick(("It is made of {}.", "{}.")).format(value).capitalize(), "material", "material",
                     Expected("material", (value,), len(MATERIALS)), regions_of(i), i)


def looks(sampler: HouseholdSampler) -> TextRound:
    """The colours and the material of one object."""
    i = sampler.target()
    obj = sampler.objects[i]
    return TextRound(question(sampler, "looks", sampler.name(i)),
                     f"It is {join(obj.colours)} and made of {obj.facts.material}.", "colour", "looks",
                     Expected("colour", obj.colours, len(COLOURS)), regions_of(i), i)


# ---------------------------------------------------------------------------------------------- states

def how_it_stands(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object stands upright, lies, leans or is upside down."""
    i = sampler.target()
    stands, said = posture(sampler.objects[i]), _posture_text(sampler, i)
    if stands is None or said is None:
        return None
    return TextRound(question(sampler, "posture", sampler.name(i)), said, "state", "posture",
                     Expected("state", (stands,), len(POSTURES)), regions_of(i), i)


def _posture_text(sampler: HouseholdSampler, i: int) -> str | None:
    stands, other = posture(sampler.objects[i]), sampler.relations.leans_on(i)
    if stands is None or stands == "leaning" and other is None:
        return None
    return POSTURES[stands][0].format("" if other is None else sampler.answer_for(other))


def opening(sampler: HouseholdSampler) -> TextRound | None:
    """How far the door or the drawers of one object are open."""
    openings = {i: sampler.objects[i].state.openings for i in sampler.clear if sampler.objects[i].state.openings}
    if not openings or sampler.it is not None and sampler.it not in openings:
        return None
    i = sampler.it if sampler.it is not None else sampler.pick(list(openings))
    parts = dict(openings[i])
    if set(parts) == {"door"}:
        return TextRound(question(sampler, "opening", sampler.name(i)), f"It is {parts['door']}.", "state", "door",
                         Expected("state", (parts["door"],), 3), regions_of(i), i)
    if sampler.coin(0.6):
        part = sampler.pick(sorted(parts))
        parts = {part: parts[part]}
        asked = question(sampler, "opening", f"the {part} of {sampler.name(i)}")
    else:
        asked = question(sampler, "drawers", sampler.name(i))
    said = sentence(join([f"the {part} is {state}" for part, state in parts.items()]))
    return TextRound(asked, said, "state", "drawers", Expected(
        "state", tuple(f"{part} {state}" for part, state in parts.items()), 3 ** len(parts)), regions_of(i), i)


def contents(sampler: HouseholdSampler) -> TextRound | None:
    """What is in one object; that can't be told where it is closed."""
    candidates = [i for i in sampler.clear if sampler.contents(i) is not None or
                  set(sampler.objects[i].state.openings.values()) == {"closed"} and sampler.kind(i).contains]
    if not candidates or sampler.it is not None and sampler.it not in candidates:
        return None
    full = [i for i in candidates if sampler.contents(i)]
    i = sampler.it if sampler.it is not None else sampler.pick(full if full and sampler.coin() else candidates)
    inside, name = sampler.contents(i), sampler.name(i)
    on_it = sampler.in_word(i) == "on"
    asked = question(sampler, "contents_on" if on_it else "contents", name)
    if inside is None:
        return TextRound(asked, f"{UNKNOWN}: it is closed.", "state", "contents", Expected("unknown", (), 3),
                         regions_of(i), i)
    if on_it:  # what stands on top of a shelf is not in it
        above = [j for j, o in enumerate(sampler.objects) if sampler.objects[i].object_index in o.state.on]
        inside = sorted({*inside, *above})
    return found(sampler, asked, "state", "contents", inside, (i,), sampler.count + 1, nothing="Nothing, it is empty.")


# ---------------------------------------------------------------------------------------------- relations

def where(sampler: HouseholdSampler) -> TextRound | None:
    """What one object is on, in or under."""
    i = sampler.target()
    support = sampler.relations.support(i)
    if support is None or sampler.kind(i).furniture:
        return None
    place = sampler.place(support)
    target = "table" if support.other is None else f"region{support.other + 1}"
    values = (support.word, target, *filter(None, (support.part,)))
    others = () if support.other is None else (support.other,)
    return TextRound(question(sampler, "where", sampler.name(i)), f"It is {place}.", "relations", "where",
                     Expected("place", values, 2 * sampler.count), regions_of(i, *others), i)


def pair(sampler: HouseholdSampler) -> TextRound | None:
    """How one object stands to another: left or right, in front or behind.

    The answer names the other first, so that a model has both before it when it comes to compare them.
    """
    i = sampler.target()
    form = sampler.pick(("side", "depth", "from"))
    axis = {"side": RELATIONS[:2], "depth": RELATIONS[2:], "from": RELATIONS}[form]
    for j in sampler.others(i):
        clear = [r for r in sampler.relations.clear_relations(i, j) if r in axis]
        if not clear or form == "from" and len(clear) < 2:
            continue
        asked = question(sampler, form, sampler.name(i), sampler.name(j))
        lead = "it" if i == sampler.it else sampler.number(i)
        said = f"From {sampler.number(j)}, {lead} is {' and '.join(SAID[r] for r in clear)}."
        return TextRound(asked, said, "relations", form, Expected("relation", tuple(_OF_SCORING[r] for r in clear),
                                                                  2 * len(clear)), regions_of(i, j), i,
                         reason=f"Because {sampler.number(i)} {' and '.join(REASON[r] for r in clear)}.")
    return None


def which_stands(sampler: HouseholdSampler) -> TextRound | None:
    """All that is on, in, under or next to one object, or the one that is left, right, in front of or behind it."""
    return standing(sampler, sampler.pick(QUESTIONS["stands"]))


def standing(sampler: HouseholdSampler, wording: str) -> TextRound | None:
    """The same in a wording, {0} for the object and {1} for how others stand to it."""
    i = sampler.target()
    relations = sampler.relations
    words: dict[str, list[int]] = {}
    itself, supports = sampler.objects[i], [relations.support(j) for j in range(sampler.count)]
    tied = [j for j, o in enumerate(sampler.objects) if itself.object_index in (*o.state.on, *o.state.under)]
    seen = {o.object_index for o in sampler.objects}
    if seen.issuperset(itself.state.holds) and all((its := supports[j]) and its.other == i for j in tied):
        for j, its in enumerate(supports):
            if its is not None and its.other == i:
                words.setdefault(f"{its.word} the {its.part} of" if its.part else its.word, []).append(j)
    beside = {j: relations.next_to(j, i) for j in range(sampler.count) if j != i}
    if None not in beside.values() and any(beside.values()):
        words["next to"] = [j for j, verdict in beside.items() if verdict]
    for relation in RELATIONS:
        only = relations.only(relation, i)
        if only is not None:
            words[relation] = [only]
    if not words:
        return None
    word = sampler.pick(sorted(words))
    return found(sampler, wording.format(sampler.name(i), word), "which_region", "stands", words[word], (i,),
                 sampler.count)


def nearest(sampler: HouseholdSampler) -> TextRound | None:
    """Which object is the nearest to another: of all, or of two."""
    of_two = sampler.coin()
    for i, a, b in sampler.triples():
        winner = sampler.relations.nearest(i, [a, b] if of_two else None)
        if winner is None or not {i, a, b} <= set(sampler.clear):
            continue
        asked = question(sampler, "nearer" if of_two else "nearest", *(sampler.name(j) for j in (i, a, b)))
        return found(sampler, asked, "nearest_between", "nearer" if of_two else "nearest", [winner],
                     (i, a, b) if of_two else (i,), 2 if of_two else sampler.count - 1,
                     f"Because {sampler.number(winner)} is the closest to {sampler.number(i)}.")
    return None


def between(sampler: HouseholdSampler) -> TextRound | None:
    """What stands between two objects."""
    for a, b, _ in sampler.triples(40):
        i = sampler.relations.only_between(a, b)
        if i is not None and {a, b} <= set(sampler.clear):
            return found(sampler, question(sampler, "between", sampler.name(a), sampler.name(b)), "nearest_between",
                         "between", [i], (a, b), sampler.count - 2)
    return None


# ---------------------------------------------------------------------------------------------- counting, finding

def _groups(sampler: HouseholdSampler) -> dict[str, tuple[str, list[int]]]:
    """What can be counted: form → (its words in the plural, the objects)."""
    i = sampler.target()
    obj, objects = sampler.objects[i], sampler.objects
    groups = {
        "kind": (plural(obj.facts.name), [j for j, o in enumerate(objects) if o.kind == obj.kind]),
        "material": (f"things made of {obj.facts.material}",
                     [j for j, o in enumerate(objects) if o.facts.material == obj.facts.material]),
    }
    first = [j for j, o in enumerate(objects) if o.colours[0] == obj.colours[0]]
    if all(obj.colours[0] not in o.colours[1:] for o in objects):  # whether a little red makes it red is disputed
        groups["colour"] = f"{obj.colours[0]} things", first
    if sampler.coin(0.3):
        absent = sampler.pick(absent_kinds(sampler))
        groups["kind"] = plural(absent.name), []
    return groups


def counting(sampler: HouseholdSampler) -> TextRound | None:
    """How many objects are of a kind, a material or a colour."""
    return counted(sampler, sampler.pick(QUESTIONS["count"]))


def counted(sampler: HouseholdSampler, wording: str) -> TextRound | None:
    """The same in a wording, {} for what is counted."""
    if len(sampler.clear) < sampler.count or sampler.it is not None:
        return None
    groups = _groups(sampler)
    form = sampler.pick(("kind", *sorted(groups)))
    name, members = groups[form]
    # The evidence first: what is counted is then written before the number that follows from it.
    listed = join([sampler.number(j) for j in members]) if members else "None"
    said = f"{listed}, so {len(members)}."
    return TextRound(wording.format(name), said, "counting", form,
                     Expected("number", (str(len(members)),), min(sampler.count + 1, 4)), regions_of(*members))


def fits(sampler: HouseholdSampler) -> TextRound | None:
    """Which region a name fits, or that there is none."""
    if missing := missing_name(sampler, 0.2):
        return found(sampler, question(sampler, "fits", missing), "which_region", "fits", (), (), sampler.count + 1,
                     nothing=f"There is no {missing} here.")
    i = sampler.target()
    phrase = sampler.phrase(i)
    if phrase is None:
        return None
    return found(sampler, question(sampler, "fits", phrase), "which_region", "fits", [i], (), sampler.count)


def in_state(sampler: HouseholdSampler) -> TextRound | None:
    """Which region is the only one that lies, or the only one that is made of a material."""
    groups: dict[str, list[int]] = {}
    for j, obj in enumerate(sampler.objects):
        groups.setdefault(f"made of {obj.facts.material}", []).append(j)
        if obj.state.posture in ("lying", "tilted"):
            groups.setdefault(POSTURES["lying"][1], []).append(j)
    single = sorted(words for words, members in groups.items() if len(members) == 1
                    and (words != POSTURES["lying"][1] or posture(sampler.objects[members[0]]) == "lying"))
    if not single or len(sampler.clear) < sampler.count:
        return None
    words = sampler.pick(single)
    return found(sampler, question(sampler, "in_state", words), "which_region", "state", groups[words], (),
                 sampler.count)


# ---------------------------------------------------------------------------------------------- descriptions

def describe(sampler: HouseholdSampler) -> TextRound:
    """What one object is and looks like, where it stands, in which state, and what it is for."""
    i = sampler.target()
    return TextRound(question(sampler, "describe", sampler.number(i)), long_text(sampler, i), "describe", "region",
                     _described(sampler, i), regions_of(i), i, frozenset({i}))


def long_text(sampler: HouseholdSampler, i: int) -> str:
    """All that is clear about object i, in sentences."""
    obj, relations = sampler.objects[i], sampler.relations
    said = [sentence(with_article(look(obj)))]
    support = relations.support(i)
    if support is not None and not obj.facts.furniture:
        said.append(f"It is {sampler.place(support)}.")
    said += filter(None, [_posture_text(sampler, i)])
    openings = obj.state.openings
    if openings:
        said.append(sentence(join([f"its {part} is {state}" for part, state in openings.items()])))
    inside = sampler.contents(i)
    if inside:
        listed = join([sampler.number(j) for j in inside])
        said.append(f"{listed} {'is' if len(inside) == 1 else 'are'} {sampler.in_word(i)} it.")
    near = [(j, r) for j in relations.neighbours(i) if j in sampler.clear for r in relations.clear_relations(i, j)[:1]]
    if near:
        said.append(f"{sampler.answer_for(near[0][0])}, is {OPPOSITE[near[0][1]]} it.")
    if sampler.may_tell(i) and sampler.coin():
        said.append(obj.facts.use)
    return " ".join(said)


def scene(sampler: HouseholdSampler) -> TextRound | None:
    """All that is clear in the scene, by the numbers of the regions, and what is not on the table.

    So that a model need only go on to the next number, and then say what is there.
    """
    if sampler.it is not None:
        return None
    things = [f"{sampler.number(i)} ({with_article(sampler.kind(i).name)})" for i in sampler.clear]
    said = [f"I see {join(things)}."]
    for i in sampler.clear:
        support = sampler.relations.support(i)
        if support is not None and support.other is not None and support.other in sampler.clear:
            said.append(f"{sampler.listed([i])} is {sampler.place(support)}.")
    known = sorted({sampler.objects[i].kind for i in sampler.clear})
    return TextRound(question(sampler, "scene"), " ".join(said), "describe", "scene",
                     Expected("scene", tuple(known), len(kinds())), regions_of(*sampler.clear), None,
                     frozenset(sampler.clear))
