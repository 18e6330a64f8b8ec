"""Questions with yes or no for an answer, one function a form, from ground truth only.

Each is drawn so that the scene allows both a yes and a no, and then a fair coin decides which: knowing the form says
nothing. What a no denies is there, but on another object or elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from ros_gpt4roi.sim.quiz import ORDER, Quiz, regions_of, sentence, with_article
from ros_gpt4roi.sim.relations import OPPOSITE, REASON, RELATIONS
from ros_gpt4roi.sim.scoring import ATTRIBUTES, Expected, TextRound


def verdict(evidence: str, truth: bool) -> str:
    """"<region2> is a bowl, so no.": what was seen first, since a small model reasons by what it has already said."""
    return sentence(f"{evidence}, so {'yes' if truth else 'no'}")


def _yes_no(quiz: Quiz, question: str, form: str, truth: bool, about: tuple[int, ...], reason: str,
            subject: int | None = None, evidence: str = "") -> TextRound:
    return TextRound(question, verdict(evidence or reason, truth), "yes_no", form,
                     Expected("yes_no", ("yes" if truth else "no",), 2), regions_of(*about), subject,
                     reason=f"Because {reason}.")


def is_it(quiz: Quiz) -> TextRound | None:
    """Whether one object has an attribute; a no names what a neighbour has."""
    i = quiz.target()
    name = quiz.pick(("kind", "kind", "colour", "colour", "size", "material"))
    own = getattr(quiz.objects[i], name)
    others = [v for j in quiz.layout.neighbours(i) if (v := getattr(quiz.objects[j], name)) != own]
    if not others:
        return None
    truth = quiz.coin()
    value = own if truth else quiz.pick(others[:3])
    said = with_article(value) if name == "kind" else value
    question = quiz.pick(("Is {} {}?", "Would you say {} is {}?")).format(quiz.name(i, hide=(name,)), said)
    reason = f"{quiz.number(i)} is {with_article(own) if name == 'kind' else own}"
    return _yes_no(quiz, question, "is_" + name, truth, (i,), reason, i)


def is_a(quiz: Quiz) -> TextRound | None:
    """Whether a region is such a thing ("a small red mug"); in a no just one word is wrong, and fits a neighbour."""
    i = quiz.target()
    own = quiz.objects[i]
    names = quiz.pick((("colour", "kind"), ("size", "kind"), ("size", "colour", "kind"), ORDER))
    swaps = []
    for j in quiz.layout.neighbours(i)[:4]:
        for name in names:
            value = getattr(quiz.objects[j], name)
            mixed = {n: getattr(own, n) for n in names} | {name: value}
            allowed = "colour" not in names or quiz.may_deny(mixed["kind"], mixed["colour"])
            if value != getattr(own, name) and allowed:
                swaps.append(mixed)
    if not swaps:
        return None
    truth = quiz.coin()
    mixed = {n: getattr(own, n) for n in names} if truth else quiz.pick(swaps)
    thing = with_article(" ".join(mixed[n] for n in ORDER if n in mixed))
    question = quiz.pick(("Is {} {}?", "Does {} show {}?")[: 1 if quiz.it is not None else 2])
    reason = f"{quiz.number(i)} is {with_article(' '.join(getattr(own, n) for n in ORDER if n in names))}"
    it = "it" if quiz.it is not None else quiz.number(i)
    return _yes_no(quiz, question.format(it, thing), "is_a", truth, (i,), reason, i)


def stands(quiz: Quiz) -> TextRound | None:
    """Whether one object stands in a relation to another."""
    i = quiz.target()
    for j in quiz.partners(i):
        true = quiz.layout.clear_relations(i, j)
        if not true:
            continue
        actual = quiz.pick(true)
        truth = quiz.coin()
        question = quiz.pick(("Is {} {} {}?", "Does {} stand {} {}?"))
        question = question.format(quiz.name(i), actual if truth else OPPOSITE[actual], quiz.name(j))
        return _yes_no(quiz, question, "stands", truth, (i, j), f"{quiz.number(i)} {REASON[actual]}", i,
                       quiz.seen_from(j, i, [actual]))
    return None


def stands_between(quiz: Quiz) -> TextRound | None:
    """Whether one object stands between two others."""
    verdicts: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
    for i, a, b in quiz.triples(24):
        verdict = quiz.layout.between(i, a, b)
        if verdict is not None:
            verdicts[verdict].append((i, a, b))
    if not verdicts[True] or not verdicts[False]:
        return None
    truth = quiz.coin()
    i, a, b = quiz.pick(verdicts[truth])
    question = f"Is {quiz.name(i)} between {quiz.name(a)} and {quiz.name(b)}?"
    line = f"on the line from {quiz.number(a)} to {quiz.number(b)}"
    return _yes_no(quiz, question, "between", truth, (i, a, b), f"it is {'' if truth else 'not '}{line}", subject=i)


def exists(quiz: Quiz) -> TextRound | None:
    """Whether there is such a thing; in a no, colour and kind are both there, but not on one object.

    Then what is of that kind is named: a small model finds what is most like the question, and reads what it found.
    """
    alike: list[int] = []
    if quiz.coin(0.35):
        name = quiz.pick(("kind", "colour"))
        present = sorted({getattr(o, name) for o in quiz.objects})
        absent = [value for value in ATTRIBUTES[name] if value not in present]
        if not absent:
            return None
        truth = quiz.coin()
        value = quiz.pick(present if truth else absent)
        thing = value if name == "kind" else f"{value} {quiz.pick(('thing', 'object'))}"
        found = quiz.has(**{name: value})
    else:
        pairs = sorted({(o.colour, o.kind) for o in quiz.objects})
        missing = [(a, b) for a in {c for c, _ in pairs} for b in {k for _, k in pairs}
                   if (a, b) not in pairs and quiz.may_deny(b, a)]
        if not missing:
            return None
        truth = quiz.coin()
        colour, kind = quiz.pick(pairs if truth else sorted(missing))
        thing, found, alike = f"{colour} {kind}", quiz.has(colour=colour, kind=kind), quiz.has(kind=kind)
    question = quiz.pick(("Is there {} in the picture?", "Is there {} on the table?", "Do you see {}?"))
    if found:
        reason = f"{quiz.number(found[0])} is {with_article(thing)}"
    elif alike:
        reason = f"{quiz.number(alike[0])} is {with_article(f'{quiz.objects[alike[0]].colour} {kind}')}"
    else:
        reason = f"there is no {thing}"
    return _yes_no(quiz, question.format(with_article(thing)), "exists", truth, tuple((found or alike)[:1]), reason)


def exists_there(quiz: Quiz) -> TextRound | None:
    """Whether there is such a thing in a relation to an object; in a no, it is there, but elsewhere."""
    i = quiz.target()
    relation, name = quiz.pick(RELATIONS), quiz.pick(("kind", "colour"))
    there = quiz.layout.all_in(relation, i)
    if there is None:
        return None
    inside = sorted({getattr(quiz.objects[j], name) for j in there})
    elsewhere = {getattr(quiz.objects[j], name) for j in range(quiz.count) if j not in there and j != i}
    outside = sorted(elsewhere - set(inside))
    if not inside or not outside:
        return None
    truth = quiz.coin()
    value = quiz.pick(inside if truth else outside)
    thing = value if name == "kind" else f"{value} {quiz.pick(('thing', 'object'))}"
    found = [j for j in there if getattr(quiz.objects[j], name) == value]
    question = f"Is there {with_article(thing)} {relation} {quiz.name(i)}?"
    reason = f"{quiz.number(found[0])} is there" if truth else f"there is no {thing} {relation} {quiz.number(i)}"
    return _yes_no(quiz, question, "exists_there", truth, (i, *found[:1]), reason)


#: One is drawn at random, the next where the scene does not allow it.
FORMS: tuple[Callable[[Quiz], TextRound | None], ...] = (
    is_it, is_it, is_a, stands, stands_between, exists, exists_there)
