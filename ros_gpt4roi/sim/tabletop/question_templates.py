"""Questions about a scene with their true answers, one function a form, from ground truth only.

Each takes a `QuestionSampler` of the scene and returns a round, or None where the scene gives no such question.

Nothing is asked whose answer could be disputed (see sim/spatial_relations.py). Wherever the answer is yes or no, the
question is drawn so that the scene allows both, and then a fair coin decides which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ros_gpt4roi.sim.region_sampler import join, regions_of, sentence, with_article
from ros_gpt4roi.sim.spatial_relations import OPPOSITE, REASON, RELATIONS
from ros_gpt4roi.sim.tabletop import yes_no_templates
from ros_gpt4roi.sim.tabletop.question_sampler import ORDER, QuestionSampler, long_text, region_round, short_text
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES, meaning, plural
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

#: The number of different short descriptions.
COMBINATIONS = int(np.prod([len(values) for values in ATTRIBUTES.values()]))
#: The comparative and the superlative of each relation.
_DEGREES = {"left of": ("further left", "furthest left"), "right of": ("further right", "furthest right"),
            "in front of": ("closer to the camera", "closest to the camera"),
            "behind": ("further back", "furthest back")}


# ---------------------------------------------------------------------------------------------- one region

_ASK_ATTRIBUTE: dict[str, tuple[str, ...]] = {
    "kind": ("What kind of object is {}?", "What sort of thing is {}?", "What type of object is {}?",
             "Name the kind of {}."),
    "colour": ("What colour is {}?", "What is the colour of {}?", "What color is {}?", "Which colour does {} have?"),
    "size": ("What size is {}?", "How big is {}?", "Is {} small or large?", "What is the size of {}?"),
    "material": ("What material is {}?", "Is {} matte or shiny?", "What finish does {} have?",
                 "How does the surface of {} look?"),
}


def attribute(sampler: QuestionSampler, task: str) -> TextRound | None:
    """The kind, colour, size or material of one object."""
    i = sampler.target()
    value = getattr(sampler.objects[i], task)
    templates = [t for t in _ASK_ATTRIBUTE[task] if sampler.it is None or " of {}" not in t]
    question = sampler.pick(templates).format(sampler.name(i, hide=(task,)))
    return TextRound(question, _attribute_answer(task, value), task, task,
                     Expected(task, (value,), len(ATTRIBUTES[task])), regions_of(i), i)


def attribute_of_each(task: str, values: Sequence[str], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions about one attribute of every region, in random order, whose answers say nothing else.

    Args:
        task: the attribute, a name in ATTRIBUTES.
        values: its value of region 1, 2, …
        rng: draws the order and the wording.

    Returns:
        (question, answer) pairs.
    """
    templates = _ASK_ATTRIBUTE[task]
    return [(templates[rng.integers(len(templates))].format(f"<region{i + 1}>"), _attribute_answer(task, values[i]))
            for i in rng.permutation(len(values))]


def _attribute_answer(task: str, value: str) -> str:
    return sentence(with_article(value) if task == "kind" else value)


def short(sampler: QuestionSampler) -> TextRound | None:
    """What one object is, in a few words."""
    i = sampler.target()
    question = sampler.pick(("What is {}?", "What can you see in {}?", "Name {}.")).format(sampler.number(i))
    values = tuple(getattr(sampler.objects[i], name) for name in ORDER)
    return TextRound(question, sentence(short_text(sampler.objects[i])), "short", "short",
                     Expected("attributes", values, COMBINATIONS), regions_of(i), i, frozenset({i}))


def describe(sampler: QuestionSampler) -> TextRound | None:
    """What one object is and where it stands to its nearest neighbour, in detail to its nearest two."""
    i = sampler.target()
    detail = sampler.coin(0.3)
    templates = ("Describe {} in detail.", "What is {} and what is around it?") if detail else \
        ("Describe {}.", "What is {} and where is it?", "Tell me about {}.")
    question = sampler.pick(templates).format(sampler.number(i))
    values = tuple(getattr(sampler.objects[i], name) for name in ORDER)
    answer = long_text(sampler.scene, i, 2 if detail else 1, sampler.relations)
    return TextRound(question, answer, "describe", "detail" if detail else "plain",
                     Expected("attributes", values, COMBINATIONS), regions_of(i), i,
                     frozenset({i, *sampler.relations.neighbours(i)[:3]}))


# ---------------------------------------------------------------------------------------------- relations

def pair_relation(sampler: QuestionSampler) -> TextRound | None:
    """How one object stands to another: left or right, in front or behind, or both."""
    i = sampler.target()
    axis = sampler.pick((("left of", "right of"), ("in front of", "behind"), None))
    for j in sampler.partners(i):
        if axis is None:
            found = [r for r in RELATIONS if sampler.relations.holds(r, i, j)]
            if len(found) < 2:
                continue
            templates, form, options = ("Where is {} from {}?", "Where does {} stand from {}?"), "where", 4
        else:
            found = [r for r in axis if sampler.relations.holds(r, i, j)]
            if not found:
                continue
            form, options = ("side", 2) if axis[0] == "left of" else ("depth", 2)
            templates = ("Is {0} left or right of {1}?", "On which side of {1} is {0}, left or right?") \
                if form == "side" else \
                ("Is {} in front of or behind {}?", "Is {} closer to the camera or further away than {}?")
        question = sampler.pick(templates).format(sampler.name(i), sampler.name(j))
        reason = " and ".join([f"{sampler.number(i)} {REASON[found[0]]}", *(REASON[r] for r in found[1:])])
        return TextRound(question, sentence(sampler.seen_from(j, i, found)), "relations", form,
                         Expected("relation", meaning(" ".join(found)), options), regions_of(i, j), i,
                         reason=f"Because {reason}.")
    return None


def extreme(sampler: QuestionSampler) -> TextRound | None:
    """Which of two or three objects is furthest left or right, or closest to the camera: by one comparison, or two."""
    relation = sampler.pick(RELATIONS)
    wide = sampler.coin()
    for triple in sampler.triples():
        group = sampler.shuffled(triple if wide else triple[:2])
        best, steps = group[0], []
        for i in group[1:]:
            stands = [r for r in (relation, OPPOSITE[relation]) if sampler.relations.holds(r, i, best)]
            if not stands:
                break
            steps.append(sampler.seen_from(best, i, stands))
            best = i if stands[0] == relation else best
        others = [j for j in group if j != best]
        if len(steps) < len(others) or not all(sampler.relations.holds(relation, best, j) for j in others):
            continue
        more, most = _DEGREES[relation]
        names = [sampler.name(i) for i in group]
        if wide:
            question = sampler.pick(("Which is {0}: {1}, {2} or {3}?", "Which of {1}, {2} and {3} is {0}?"))
            question = question.format(most, *names)
        else:
            question = sampler.pick(("Which is {0}, {1} or {2}?", "Which of {1} and {2} is {0}?"))
            question = question.format(more, *names)
        return region_round(sampler, question, "relations", "extreme", best, tuple(group), len(group),
                            f"Because {sampler.number(best)} {REASON[relation]}.", " and ".join(steps))
    return None


def closest(sampler: QuestionSampler) -> TextRound | None:
    """Which object is the closest to another: of all, or of two."""
    of_two = sampler.coin()
    for i, a, b in sampler.triples():
        winner = sampler.relations.nearest(i, [a, b] if of_two else None)
        if winner is None:
            continue
        about: tuple[int, ...]
        if of_two:
            question = sampler.pick(("Which is closer to {0}: {1} or {2}?", "Is {1} or {2} closer to {0}?"))
            options, about = 2, (i, a, b)
            reason = f"Because {sampler.number(b if winner == a else a)} is further from {sampler.number(i)}."
        else:
            question = sampler.pick(("What is closest to {0}?", "Which region is nearest to {0}?",
                                  "What is the closest thing to {0}?"))
            options, about = sampler.count - 1, (i,)
            reason = f"Because every other object is further from {sampler.number(i)}."
        return region_round(sampler, question.format(sampler.name(i), sampler.name(a), sampler.name(b)), "relations",
                            "closer" if of_two else "closest", winner, about, options, reason)
    return None


def between(sampler: QuestionSampler) -> TextRound | None:
    """What stands between two objects."""
    for a, b, _ in sampler.triples():
        i = sampler.relations.only_between(a, b)
        if i is not None:
            question = sampler.pick(("What is between {} and {}?", "Which region is between {} and {}?",
                                  "What stands between {} and {}?")).format(sampler.name(a), sampler.name(b))
            return region_round(sampler, question, "relations", "between", i, (a, b), sampler.count - 2,
                                f"Because it is on the line from {sampler.number(a)} to {sampler.number(b)}.")
    return None


# ---------------------------------------------------------------------------------------------- counting

def counting(sampler: QuestionSampler) -> TextRound | None:
    """How many objects fit a description."""
    form = sampler.pick(("kind", "colour", "other", "two", "relation") if sampler.count > 1 else ("kind", "colour"))
    options = min(sampler.count + 1, 4)
    things = sampler.pick(("things", "objects"))
    template = sampler.pick(("How many {} are there?", "How many {} do you see?", "Count the {}."))
    if form == "relation":
        i, relation = sampler.target(), sampler.pick(RELATIONS)
        found = sampler.relations.all_in(relation, i)
        if found is None:
            return None
        where = sampler.name(i)
        question = sampler.pick(("How many {0} are {1}?", "Count the {0} {1}.")).format(things, f"{relation} {where}")
        options = sampler.count
    else:
        wanted = _wanted(sampler, {
            "kind": ("kind",), "colour": ("colour",), "other": (sampler.pick(("size", "material")),),
            "two": sampler.pick((("size", "kind"), ("size", "colour"), ("colour", "kind"), ("material", "kind"),
                                 ("material", "colour")))}[form])
        if wanted is None:
            return None
        found = sampler.has(**wanted)
        words = [wanted[n] for n in ORDER if n in wanted and n != "kind"]
        question = template.format(" ".join([*words, plural(wanted["kind"]) if "kind" in wanted else things]))
    if not found:
        answer = "None, so 0."
    else:
        only = "Only " if len(found) == 1 else ""
        answer = f"{only}{join([sampler.number(i) for i in found])}, so {len(found)}."
    return TextRound(question, answer, "counting", form, Expected("number", (str(len(found)),), options),
                     regions_of(*found))


def _wanted(sampler: QuestionSampler, names: tuple[str, ...]) -> dict[str, str] | None:
    """Values to count: mostly those of an object, sometimes values that the scene may lack."""
    if sampler.coin(0.75):
        obj = sampler.objects[sampler.target()]
        return {name: getattr(obj, name) for name in names}
    wanted = {name: sampler.pick(ATTRIBUTES[name]) for name in names}
    if {"kind", "colour"} <= set(names) and not sampler.may_deny(wanted["kind"], wanted["colour"]):
        return None
    return wanted


# ---------------------------------------------------------------------------------------------- comparing

def comparing(sampler: QuestionSampler) -> TextRound | None:
    """Which of two objects is larger, what they have in common."""
    i = sampler.target()
    if sampler.coin(0.6):
        for j in sampler.partners(i):
            if sampler.agree(i, j, ("size",)):
                continue
            relation = sampler.pick(("larger", "smaller"))
            first, second = sampler.name(i, hide=("size",)), sampler.name(j, hide=("size",))
            question = sampler.pick(("Which is {0}, {1} or {2}?", "Is {1} or {2} {0}?", "Which of {1} and {2} is {0}?"))
            winner = i if (sampler.objects[i].size == "large") == (relation == "larger") else j
            evidence = " and ".join(f"{sampler.number(o)} is {sampler.objects[o].size}" for o in (i, j))
            return TextRound(question.format(relation, first, second), f"{evidence}, so {sampler.number(winner)}.",
                             "comparing", "larger", Expected("region", (f"region{winner + 1}",), 2), regions_of(i, j),
                             reason=f"Because {evidence}.")
        return None
    if sampler.count < 2:
        return None
    j = sampler.pick(sampler.partners(i))
    question = sampler.pick(("What do {} and {} have in common?", "In what are {} and {} alike?"))
    shared = [getattr(sampler.objects[i], name) for name in ORDER if sampler.agree(i, j, (name,))]
    if sampler.agree(i, j, ("kind",)):
        answer = f"Both are {' '.join([*shared[:-1], plural(shared[-1])])}."
    else:
        answer = f"Both are {join(shared)}." if shared else "Nothing."
    expected = Expected("statement", ("both", *shared) if shared else ("nothing",), 16)
    return TextRound(question.format(sampler.number(i), sampler.number(j)), answer, "comparing", "common", expected,
                     regions_of(i, j))


def same(sampler: QuestionSampler) -> TextRound | None:
    """Whether two objects have the same colour, kind, size or material; as often yes as no."""
    i = sampler.target()
    names = sampler.shuffled(tuple(ATTRIBUTES))
    for name in names:
        groups: dict[bool, list[int]] = {True: [], False: []}
        for j in sampler.partners(i):
            groups[sampler.agree(i, j, (name,))].append(j)
        if not groups[True] or not groups[False]:
            continue
        truth = sampler.coin()
        j = sampler.pick(groups[truth])
        templates = ("Are {1} and {2} the same {0}?", "Do {1} and {2} have the same {0}?",
                     "Is the {0} of {1} the same as that of {2}?")
        question = templates[0] if name == "kind" else sampler.pick(templates)
        word = "kind of object" if name == "kind" else name
        question = question.format(word, sampler.name(i, hide=(name,)), sampler.name(j, hide=(name,)))
        value, other = getattr(sampler.objects[i], name), getattr(sampler.objects[j], name)
        if name == "kind":
            value, other = with_article(value), with_article(other)
            both = plural(sampler.objects[i].kind)
        else:
            both = value
        evidence = f"{sampler.number(i)} is {value} and {sampler.number(j)} is {other}"
        reason = f"both are {both}" if truth else evidence
        return TextRound(question, yes_no_templates.verdict(evidence, truth), "comparing", "same",
                         Expected("yes_no", ("yes" if truth else "no",), 2), regions_of(i, j),
                         reason=f"Because {reason}.")
    return None


# ---------------------------------------------------------------------------------------------- which region

def which_fits(sampler: QuestionSampler) -> TextRound | None:
    """Which region fits a description that only one fits."""
    i = sampler.target()
    phrase = sampler.phrase(i)
    if phrase is None:
        return None
    question = sampler.pick(("Which region is the {}?", "Which one is the {}?", "Where is the {}?", "Find the {}.",
                          "Show me the {}.", "Point at the {}.")).format(phrase)
    return region_round(sampler, question, "which_region", "fits", i, (), sampler.count,
                        f"Because {sampler.number(i)} is the only {phrase}.")


def which_stands(sampler: QuestionSampler) -> TextRound | None:
    """Which object stands in a relation to another, asked where there is just one, or for the nearest such."""
    i = sampler.target()
    for relation in sampler.shuffled(RELATIONS):
        answer = sampler.relations.only(relation, i)
        name = sampler.name(i)
        if answer is not None:
            question = sampler.pick(("What is {} {}?", "Which region is {} {}?", "Which one is {} {}?"))
            options = sampler.count - 1
        else:
            found = sampler.relations.all_in(relation, i)
            answer = sampler.relations.nearest(i, found) if found else None
            if not found or answer is None:
                continue
            question = sampler.pick(("What is the nearest thing {} {}?", "Which region is next {} {}?"))
            options = len(found)
        return region_round(sampler, question.format(relation, name), "which_region", "stands", answer, (i,), options,
                            f"Because {sampler.number(answer)} {REASON[relation]}.")
    return None


def which_missing(sampler: QuestionSampler) -> TextRound | None:
    """Which region fits a description that none fits: colour and kind are there, but not on one object."""
    pairs = [(a.colour, b.kind) for a in sampler.objects for b in sampler.objects
             if not sampler.has(colour=a.colour, kind=b.kind) and sampler.may_deny(b.kind, a.colour)]
    if not pairs:
        return None
    colour, kind = sampler.pick(pairs)
    question = sampler.pick(("Which region is the {}?", "Where is the {}?", "Find the {}."))
    return TextRound(question.format(f"{colour} {kind}"), f"There is no {colour} {kind}.", "which_region", "fits",
                     Expected("region", (), sampler.count + 1))


#: The forms of question of each task; one is drawn at random, the next where the scene does not allow it.
TASKS: dict[str, tuple[Callable[[QuestionSampler], TextRound | None], ...]] = {
    **{name: (partial(attribute, task=name),) for name in ATTRIBUTES},
    "short": (short,),
    "describe": (describe,),
    "relations": (pair_relation, pair_relation, extreme, closest, between),
    "counting": (counting,),
    "comparing": (comparing, same),
    "which_region": (which_fits, which_fits, which_fits, which_stands, which_stands, which_stands, which_missing),
    "yes_no": yes_no_templates.FORMS,
}
