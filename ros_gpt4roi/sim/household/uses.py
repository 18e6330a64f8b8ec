"""Questions about what the things of a household are for and what else is known of them.

As those of questions.py; in training scenes they leave out the kinds whose use is held out.
"""

from __future__ import annotations

from dataclasses import replace

from ros_gpt4roi.sim.region_sampler import join, regions_of, sentence, with_article
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

from .catalogue import kinds
from .questions import question
from .sampler import HouseholdSampler, found, plural
from .wordings import FACT_OF, FACT_OF_ALL, FACTS
from .yes_no import yes_no_round


def use(sampler: HouseholdSampler) -> TextRound | None:
    """What one object is for."""
    i = sampler.target()
    if not sampler.may_tell(i):
        return None
    known = sampler.kind(i)
    said = sampler.pick((known.use, f"It is {_purpose(sampler, i)}"))
    return TextRound(question(sampler, "use", sampler.name(i)), said, sampler.use_task(i), "use",
                     Expected("use", (sampler.objects[i].kind,), len(kinds())), regions_of(i), i)


def need(sampler: HouseholdSampler) -> TextRound | None:
    """Which regions serve a purpose."""
    i = sampler.target()
    if not sampler.may_tell(i) or sampler.it is not None:
        return None
    known = sampler.kind(i)
    same = [j for j, o in enumerate(sampler.objects) if o.kind == sampler.objects[i].kind]
    turn = found(sampler, question(sampler, "need", known.used_to), sampler.use_task(i), "need", same, (),
                 sampler.count, _reason(sampler, "", i))
    # What is needed first: the name follows from the purpose, and the region from the name.
    name = known.name if len(same) == 1 else plural(known.name)
    return replace(turn, answer=f"The {name}, {join([sampler.number(j) for j in same])}.")


def which_fact(sampler: HouseholdSampler) -> TextRound | None:
    """Which of some regions, or of all, is edible, fragile and the like: where that is one."""
    i = sampler.target()
    if not sampler.may_tell(i) or sampler.it is not None:
        return None
    tellable = [j for j in sampler.others(i) if sampler.may_tell(j)]
    for fact in sampler.shuffled(sorted(FACTS)):
        others = [j for j in tellable if not _applies(sampler, fact, j) and not _doubtful(sampler, fact, j)]
        if not _applies(sampler, fact, i) or not others:
            continue
        phrase, reason = sampler.pick(FACTS[fact][0]), _reason(sampler, fact, i)
        task, form = sampler.use_task(i), f"which_{fact}"
        if len(others) == sampler.count - 1:
            return found(sampler, sampler.pick(FACT_OF_ALL).format(phrase), task, form, [i], (), sampler.count, reason)
        group = sampler.shuffled([i, *others[:3]])
        asked = sampler.pick(FACT_OF).format(phrase, join([sampler.number(j) for j in group]))
        turn = found(sampler, asked, task, form, [i], group, len(group), reason)
        # What each of them is first: which of those names is meant is known without a picture.
        each = ", ".join(map(sampler.evidence, group))
        return replace(turn, answer=sentence(f"{each}, so {sampler.number(i)}"))
    return None


def _applies(sampler: HouseholdSampler, fact: str, i: int) -> bool:
    """Whether a fact is true of object i."""
    return bool(getattr(sampler.kind(i), fact))


def _doubtful(sampler: HouseholdSampler, fact: str, i: int) -> bool:
    """Whether people could dispute that a fact is not true of object i."""
    return fact == "fragile" and sampler.kind(i).furniture


def _purpose(sampler: HouseholdSampler, i: int) -> str:
    """"a moka pot: it brews coffee on a stove."."""
    known = sampler.kind(i)
    return f"{with_article(known.name)}: {known.use[0].lower()}{known.use[1:]}"


def _reason(sampler: HouseholdSampler, fact: str, i: int) -> str:
    """Why object i serves its purpose, or why a fact is true or not true of it: what is seen, and what is known."""
    known = sampler.kind(i)
    if fact == "fragile":
        return f"Because {sampler.evidence(i)} and made of {known.material}."
    return f"Because {sampler.number(i)} is {_purpose(sampler, i)}"


def fact(sampler: HouseholdSampler) -> TextRound | None:
    """Whether one object is edible, fragile and the like; scored as a question about uses."""
    for name in sampler.shuffled(sorted(FACTS)):
        sets: dict[bool, list[int]] = {True: [], False: []}
        for j in sampler.among:
            if sampler.may_tell(j) and not _doubtful(sampler, name, j):
                sets[_applies(sampler, name, j)].append(j)
        if not sets[True] or not sets[False]:
            continue
        truth = sampler.coin()
        i = sampler.pick(sets[truth])
        evidence = sampler.evidence(i)
        evidence += f", which {FACTS[name][2]}" if truth else ""
        asked = sampler.pick(FACTS[name][1]).format(sampler.name(i))
        return yes_no_round(asked, f"is_{name}", truth, (i,), evidence, i, sampler.use_task(i),
                            _reason(sampler, name, i))
    return None
