"""Questions with yes or no for an answer, one function a form, from ground truth only.

Each takes a `QuestionSampler` of the scene and returns a round, or None where the scene gives no such question.

Each is drawn so that the scene allows both a yes and a no, and then a fair coin decides which: knowing the form says
nothing. What a no denies is there, but on another object or elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from ros_gpt4roi.sim.region_sampler import regions_of, sentence, with_article
from ros_gpt4roi.sim.spatial_relations import OPPOSITE, REASON, RELATIONS
from ros_gpt4roi.sim.tabletop.question_sampler import ORDER, QuestionSampler
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES
from ros_gpt4roi.sim.text_rounds import Expected, TextRound


def verdict(evidence: str, truth: bool) -> str:
    """"<region2> is a bowl, so no.": what was seen first, since a small model reasons by what it has already said.

    Args:
        evidence: What was seen, a clause without a full stop.
        truth: Whether the answer is yes.
    """
    return sentence(f"{evidence}, so {'yes' if truth else 'no'}")


def _yes_no(question: str, form: str, truth: bool, about: tuple[int, ...], reason: str, subject: int | None = None,
            evidence: str = "") -> TextRound:
    return TextRound(question, verdict(evidence or reason, truth), "yes_no", form,
                     Expected("yes_no", ("yes" if truth else "no",), 2), regions_of(*about), subject,
                     reason=f"Because {reason}.")


def is_it(sampler: QuestionSampler) -> TextRound | None:
    """Whether one object has an attribute; a no names what a neighbour has."""
    i = sampler.target()
    name = sampler.pick(("kind", "kind", "colour", "colour", "size", "material"))
    own = getattr(sampler.objects[i], name)
    others = [v for j in sampler.relations.neighbours(i) if (v := getattr(sampler.objects[j], name)) != own]
    if not others:
        return None
    truth = sampler.coin()
    value = own if truth else sampler.pick(others[:3])
    said = with_article(value) if name == "kind" else value
    question = sampler.pick(("Is {} {}?", "Would you say {} is {}?")).format(sampler.name(i, hide=(name,)), said)
    reason = f"{sampler.number(i)} is {with_article(own) if name == 'kind' else own}"
    return _yes_no(question, "is_" + name, truth, (i,), reason, i)


def is_a(sampler: QuestionSampler) -> TextRound | None:
    """Whether a region is such a thing ("a small red mug"); in a no just one word is wrong, and fits a neighbour."""
    i = sampler.target()
    own = sampler.objects[i]
    names = sampler.pick((("colour", "kind"), ("size", "kind"), ("size", "colour", "kind"), ORDER))
    swaps = []
    for j in sampler.relations.neighbours(i)[:4]:
        for name in names:
            value = getattr(sampler.objects[j], name)
            mixed = {n: getattr(own, n) for n in names} | {name: value}
            allowed = "colour" not in names or sampler.may_deny(mixed["kind"], mixed["colour"])
            if value != getattr(own, name) and allowed:
                swaps.append(mixed)
    if not swaps:
        return None
    truth = sampler.coin()
    mixed = {n: getattr(own, n) for n in names} if truth else sampler.pick(swaps)
    thing = with_article(" ".join(mixed[n] for n in ORDER if n in mixed))
    question = sampler.pick(("Is {} {}?", "Does {} show {}?")[: 1 if sampler.it is not None else 2])
    reason = f"{sampler.number(i)} is {with_article(' '.join(getattr(own, n) for n in ORDER if n in names))}"
    it = "it" if sampler.it is not None else sampler.number(i)
    return _yes_no(question.format(it, thing), "is_a", truth, (i,), reason, i)


def stands(sampler: QuestionSampler) -> TextRound | None:
    """Whether one object stands in a relation to another."""
    i = sampler.target()
    for j in sampler.partners(i):
        true = sampler.relations.clear_relations(i, j)
        if not true:
            continue
        actual = sampler.pick(true)
        truth = sampler.coin()
        question = sampler.pick(("Is {} {} {}?", "Does {} stand {} {}?"))
        question = question.format(sampler.name(i), actual if truth else OPPOSITE[actual], sampler.name(j))
        return _yes_no(question, "stands", truth, (i, j), f"{sampler.number(i)} {REASON[actual]}", i,
                       sampler.seen_from(j, i, [actual]))
    return None


def stands_between(sampler: QuestionSampler) -> TextRound | None:
    """Whether one object stands between two others."""
    verdicts: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
    for i, a, b in sampler.triples(24):
        verdict = sampler.relations.between(i, a, b)
        if verdict is not None:
            verdicts[verdict].append((i, a, b))
    if not verdicts[True] or not verdicts[False]:
        return None
    truth = sampler.coin()
    i, a, b = sampler.pick(verdicts[truth])
    question = f"Is {sampler.name(i)} between {sampler.name(a)} and {sampler.name(b)}?"
    line = f"on the line from {sampler.number(a)} to {sampler.number(b)}"
    return _yes_no(question, "between", truth, (i, a, b), f"it is {'' if truth else 'not '}{line}", subject=i)


def exists(sampler: QuestionSampler) -> TextRound | None:
    """Whether there is such a thing; in a no, colour and kind are both there, but not on one object.

    Then what is of that kind is named: a small model finds what is most like the question, and reads what it found.
    """
    alike: list[int] = []
    if sampler.coin(0.35):
        name = sampler.pick(("kind", "colour"))
        present = sorted({getattr(o, name) for o in sampler.objects})
        absent = [value for value in ATTRIBUTES[name] if value not in present]
        if not absent:
            return None
        truth = sampler.coin()
        value = sampler.pick(present if truth else absent)
        thing = value if name == "kind" else f"{value} {sampler.pick(('thing', 'object'))}"
        found = sampler.has(**{name: value})
    else:
        pairs = sorted({(o.colour, o.kind) for o in sampler.objects})
        missing = [(a, b) for a in {c for c, _ in pairs} for b in {k for _, k in pairs}
                   if (a, b) not in pairs and sampler.may_deny(b, a)]
        if not missing:
            return None
        truth = sampler.coin()
        colour, kind = sampler.pick(pairs if truth else sorted(missing))
        thing, found, alike = f"{colour} {kind}", sampler.has(colour=colour, kind=kind), sampler.has(kind=kind)
    question = sampler.pick(("Is there {} in the picture?", "Is there {} on the table?", "Do you see {}?"))
    if found:
        reason = f"{sampler.number(found[0])} is {with_article(thing)}"
    elif alike:
        reason = f"{sampler.number(alike[0])} is {with_article(f'{sampler.objects[alike[0]].colour} {kind}')}"
    else:
        reason = f"there is no {thing}"
    return _yes_no(question.format(with_article(thing)), "exists", truth, tuple((found or alike)[:1]), reason)


def exists_there(sampler: QuestionSampler) -> TextRound | None:
    """Whether there is such a thing in a relation to an object; in a no, it is there, but elsewhere."""
    i = sampler.target()
    relation, name = sampler.pick(RELATIONS), sampler.pick(("kind", "colour"))
    there = sampler.relations.all_in(relation, i)
    if there is None:
        return None
    inside = sorted({getattr(sampler.objects[j], name) for j in there})
    elsewhere = {getattr(sampler.objects[j], name) for j in range(sampler.count) if j not in there and j != i}
    outside = sorted(elsewhere - set(inside))
    if not inside or not outside:
        return None
    truth = sampler.coin()
    value = sampler.pick(inside if truth else outside)
    thing = value if name == "kind" else f"{value} {sampler.pick(('thing', 'object'))}"
    found = [j for j in there if getattr(sampler.objects[j], name) == value]
    question = f"Is there {with_article(thing)} {relation} {sampler.name(i)}?"
    reason = f"{sampler.number(found[0])} is there" if truth else f"there is no {thing} {relation} {sampler.number(i)}"
    return _yes_no(question, "exists_there", truth, (i, *found[:1]), reason)


#: One is drawn at random, the next where the scene does not allow it.
FORMS: tuple[Callable[[QuestionSampler], TextRound | None], ...] = (
    is_it, is_it, is_a, stands, stands_between, exists, exists_there)
