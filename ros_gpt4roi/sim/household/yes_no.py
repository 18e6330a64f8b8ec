"""Questions about a household scene with yes or no for an answer, one function a form, from ground truth only.

Each is drawn so that the scene allows both a yes and a no, and then a fair coin decides which.
"""

from __future__ import annotations

from ros_gpt4roi.sim.region_sampler import join, regions_of, sentence, with_article
from ros_gpt4roi.sim.spatial_relations import OPPOSITE, REASON, SAID
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

from .questions import Form, question
from .relations import Support
from .sampler import HouseholdSampler, absent_kinds, posture
from .wordings import POSTURES


def yes_no_round(asked: str, form: str, truth: bool, about: tuple[int, ...], evidence: str,
                 subject: int | None = None, task: str = "yes_no", reason: str = "") -> TextRound:
    """A question whose answer is yes or no, after the evidence for it, a clause without a full stop.

    In this order a model has said what it sees when it comes to the verdict.
    """
    return TextRound(asked, sentence(f"{evidence}, so {'yes' if truth else 'no'}"), task, form,
                     Expected("yes_no", ("yes" if truth else "no",), 2), regions_of(*about), subject,
                     reason=reason)


def is_kind(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object is of a kind; a no names what another object is."""
    i = sampler.target()
    own = sampler.kind(i)
    others = [sampler.kind(j).name for j in sampler.others(i) if sampler.kind(j) is not own]
    if not others:
        return None
    truth = sampler.coin()
    asked = question(sampler, "is_kind", sampler.name(i, hide="kind"), with_article(own.name if truth else others[0]))
    return yes_no_round(asked, "kind", truth, (i,), sampler.evidence(i), i)


def is_colour(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object has a colour; a no names one that another object has."""
    i = sampler.target()
    own = sampler.objects[i].colours
    others = [c for j in sampler.others(i) for c in sampler.objects[j].colours[:1] if c not in own]
    if not others:
        return None
    truth = sampler.coin()
    asked = question(sampler, "is_colour", sampler.name(i, hide="colour"), own[0] if truth else others[0])
    return yes_no_round(asked, "colour", truth, (i,), f"{sampler.number(i)} is {join(own)}", i)


def is_material(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object is made of a material; a no names what another object is made of."""
    i = sampler.target()
    own = sampler.kind(i).material
    others = [sampler.kind(j).material for j in sampler.others(i) if sampler.kind(j).material != own]
    if not others:
        return None
    truth = sampler.coin()
    asked = question(sampler, "is_material", sampler.name(i), own if truth else others[0])
    return yes_no_round(asked, "material", truth, (i,), f"{sampler.number(i)} is made of {own}", i)


def is_state(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object stands or lies, or whether its door or a drawer is open or closed."""
    i = sampler.target()
    obj, truth = sampler.objects[i], sampler.coin()
    stands = posture(obj)
    if obj.state.openings:
        part = sampler.pick(sorted(obj.state.openings))
        state = obj.state.openings[part]
        wrong = "open" if state == "closed" else "closed"
        asked = question(sampler, "is_state", f"the {part} of {sampler.name(i)}", state if truth else wrong)
        return yes_no_round(asked, "opening", truth, (i,), f"the {part} of {sampler.number(i)} is {state}", i)
    if stands not in ("standing", "lying"):
        return None
    said = POSTURES["standing" if (stands == "standing") == truth else "lying"][1]
    return yes_no_round(question(sampler, "is_state", sampler.name(i), said), "posture", truth, (i,),
                        f"{sampler.number(i)} is {POSTURES[stands][1]}", i)


def stands(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object is left of, right of, in front of or behind another."""
    i = sampler.target()
    for j in sampler.others(i):
        true = sampler.relations.clear_relations(i, j)
        if true:
            actual, truth = sampler.pick(true), sampler.coin()
            asked = question(sampler, "is_there", sampler.name(i),
                             f"{actual if truth else OPPOSITE[actual]} {sampler.name(j)}")
            evidence = f"from {sampler.number(j)}, {sampler.number(i)} is {SAID[actual]}"
            return yes_no_round(asked, "stands", truth, (i, j), evidence, i,
                                reason=f"Because {sampler.number(i)} {REASON[actual]}.")
    return None


def is_next_to(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object is next to another."""
    i = sampler.target()
    sets: dict[bool, list[int]] = {True: [], False: []}
    for j in sampler.others(i):
        verdict = sampler.relations.next_to(i, j)
        if verdict is not None:
            sets[verdict].append(j)
    if not sets[True] or not sets[False]:
        return None
    truth = sampler.coin()
    j = sets[truth][0]
    asked = question(sampler, "is_there", sampler.name(i), f"next to {sampler.name(j)}")
    evidence = f"{sampler.number(i)} is {'' if truth else 'not '}next to {sampler.number(j)}"
    return yes_no_round(asked, "next_to", truth, (i, j), evidence, i)


def is_between(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object is between two others."""
    sets: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
    for triple in sampler.triples(40):
        verdict = sampler.relations.between(*triple)
        if verdict is not None and set(triple) <= set(sampler.clear):
            sets[verdict].append(triple)
    if not sets[True] or not sets[False]:
        return None
    truth = sampler.coin()
    i, a, b = sampler.pick(sets[truth])
    asked = question(sampler, "is_there", sampler.name(i), f"between {sampler.name(a)} and {sampler.name(b)}")
    evidence = f"{sampler.number(i)} is {'' if truth else 'not '}between {sampler.number(a)} and {sampler.number(b)}"
    return yes_no_round(asked, "between", truth, (i, a, b), evidence, i)


def is_placed(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object is on, in or under another; a no names something else that it could be on or in."""
    i = sampler.target()
    own = sampler.relations.support(i)
    if own is None or own.other is None:  # all things are on the table, in a way
        return None
    others = [j for j in sampler.others(i) if j != own.other and not sampler.relations.stacked(i, j)
              and (sampler.kind(j).contains or sampler.kind(j).furniture)]
    if not others:
        return None
    truth, other = sampler.coin(), others[0]
    wrong = Support(sampler.in_word(other) if sampler.kind(other).contains else "on", other)
    asked = question(sampler, "is_there", sampler.name(i), sampler.place(own if truth else wrong))
    return yes_no_round(asked, "placed", truth, (i, own.other), f"{sampler.number(i)} is {sampler.place(own)}", i)


def is_empty(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one container is empty, where the scene has both."""
    sets: dict[bool, list[int]] = {True: [], False: []}
    for i in sampler.clear:
        inside = sampler.contents(i)
        if inside is not None and sampler.in_word(i) == "in":
            sets[not inside].append(i)
    if not sets[True] or not sets[False] or sampler.it is not None:
        return None
    truth = sampler.coin()
    i = sampler.pick(sets[truth])
    inside = sampler.contents(i) or []
    evidence = f"{sampler.number(i)} is empty" if truth else \
        f"{join([sampler.number(j) for j in inside])} {'is' if len(inside) == 1 else 'are'} in {sampler.number(i)}"
    asked = question(sampler, "is_state", sampler.name(i), "empty")
    return yes_no_round(asked, "empty", truth, (i, *inside), evidence, i)


def exists(sampler: HouseholdSampler) -> TextRound | None:
    """Whether there is something of a kind."""
    if len(sampler.clear) < sampler.count or sampler.it is not None:
        return None
    truth, i = sampler.coin(), sampler.target()
    known = sampler.kind(i) if truth else sampler.pick(absent_kinds(sampler))
    evidence = sampler.evidence(i) if truth else f"there is no {known.name}"
    return yes_no_round(question(sampler, "exists", with_article(known.name)), "exists", truth, (i,) if truth else (),
                        evidence)


#: One is drawn at random, the next where the scene does not allow it.
FORMS: tuple[Form, ...] = (is_kind, is_colour, is_material, is_state, is_state, stands, is_next_to, is_between,
                           is_placed, is_empty, exists)
