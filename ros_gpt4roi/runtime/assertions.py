"""Which regions an answer asserts, and which it only names on the way there.

A robot acts on what is asserted, so the rule would rather find too little than too much. It reads English; in other
languages it finds what stands alone or begins a sentence. See `assertions` for the rule itself.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# A word, a region's place (an int) or a mark.
Token = str | int

_TOKEN = re.compile(r"<?(?P<region>region)(?P<plural>s)?\s?(?P<place>\d+)(?!\d)>?|[^\W\d_]+(?:['’][^\W\d_]+)?|\d+|\n|"
                    r"[^\w\s]")
_ENDS = frozenset(".!?;\n")
_JOINS = frozenset((",", "and", "or", "nor", "&", "/"))
_FILLS = frozenset("the a only both just also it's its exactly probably clearly certainly".split())
_VERBS = frozenset("is are was were stands sits lies has have looks appears seems does shows".split())
# What a region may follow if the sentence is about it, rather than about something beside it.
_BEFORE_SUBJECT = frozenset("""
    ( : " “ ' - – * is are was were be do does did has have can describe compare name choose pick find see show shows
    say what's where's who's how's it's that's which what yes so that""".split())
_BEFORE_OBJECT = frozenset("in inside at about as for called named labelled labeled tell consider".split())
# "The colour of region 2" is about region 2, "the left of region 2" is about what stands there.
_PLACE_NOUNS = frozenset("""
    left right front side back top bottom ahead behind outside out edge corner center centre middle north south east
    west underneath none neither neighbour neighbor neighbours neighbors vicinity proximity surroundings opposite reach
    instead because rest""".split())
_NEGATIONS = frozenset("no none nothing neither nor nobody nope never not hardly".split())
_UNSURE = re.compile(r"\b(?:can ?not|can['’]t|don['’]t|do not|not sure|unsure|unclear|unknown|uncertain|sorry|might|"
                     r"could|may|maybe|perhaps|possibly|probably not|unlikely|if|whether)\b")
_CONTRASTS = frozenset("but while whereas although though except unlike".split())
_REASONS = frozenset(("because", "since"))
_CONCLUSIONS = frozenset("so therefore thus hence".split())
_NOT_CONCLUDED = frozenset("that far much many long is are".split())
_PRONOUNS = frozenset(("it", "its", "this"))


def assertions(question: str, answer: str, meant: int | None = None,
               complete: bool = True) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tells the regions that an answer asserts from those that it names as evidence.

    The statement is what follows the last ", so" (therefore, thus, hence), else the first sentence, without what
    follows "because". It asserts the regions that it is about: not those that it compares with or places by ("left of
    region 2", "from region 2", "than region 2"), denies, or leaves open ("region 1 or region 2"). A statement that
    denies something, sets regions against each other ("but") or says different things of them asserts none of those
    that the question is not about, nor does an answer with a "maybe" or an "if" anywhere. Where the statement is
    "yes", what was said before it is asserted; where it is a number, the list before it of just so many regions. Where
    it names none, the answer is of the region that the question is about, if it names no other, and "both" are the two.
    All else that is named is evidence.

    Args:
        question: In the model's words, regions as `<region2>`.
        answer: In the model's words, regions as ``region2``.
        meant: The place of the region that "it" and "this" mean in the question.
        complete: Whether the answer was written to its end. What an unfinished one names is evidence only.

    Returns:
        Places of the asserted regions and of the evidence, in the order of mention.
    """
    asked = _asked(question, meant)
    tokens = _tokens(answer)
    if not tokens:
        return (), ()
    named = tuple(dict.fromkeys(token for token in tokens if isinstance(token, int)))
    # One of those that are asked about is looked for, where the question is "which": not both are asserted.
    several = () if "which" in question.casefold() else asked
    found = _asserted(asked, several, answer, tokens) if complete else _of_the_asked(asked, _subjects(tokens))
    return tuple(found), tuple(place for place in named if place not in found)


def is_plain(text: str) -> bool:
    """Whether a text denies nothing and leaves nothing open."""
    return not (_UNSURE.search(text.casefold()) or any(map(_negates, _tokens(text))))


def _asserted(asked: Sequence[int], several: Sequence[int], answer: str, tokens: list[Token]) -> list[int]:
    if _UNSURE.search(answer.casefold()):
        return []
    sentences = [_without_reasons(sentence) for sentence in _sentences(tokens)]
    before, statement, after = _statement(sentences)
    first = statement[0] if statement else ""
    stated = _subjects([*before, ".", *statement])
    if _missing(statement):
        return []
    if first in _NEGATIONS or not _clear(statement, several):
        return _of_the_asked(asked, stated)
    if found := _subjects(statement, sure=True):
        more = _subjects(after, sure=True) if _clear(after, several) else []
        return [*found, *(place for place in more if place in asked and place not in found)]
    if first == "yes" and before:
        shared = _subjects(before, sure=True)  # such as "region 1 is red and region 2 is red"
        return (shared if _clear(before, shared) else []) or _of_the_asked(asked, stated)
    if statement[:1] and len(statement) == 1 and str(first).isdecimal():
        listed = [token for token in before if isinstance(token, int)]
        bare = all(isinstance(token, int) or token in _JOINS or token == "only" for token in before)
        if bare and len(set(listed)) == len(listed) == int(first):
            return listed
    if first == "both" and len(asked) == 2:
        return list(asked)
    return _of_the_asked(asked, stated)


def _missing(statement: list[Token]) -> bool:
    """Whether it says that there is no such region."""
    if not any(_negates(token) for token in statement):
        return False
    return "exist" in statement or statement[:1] == ["there"] and any(
        isinstance(token, int) and before in ("no", "a", "any") for before, token in zip(statement, statement[1:]))


def _clear(tokens: list[Token], several: Sequence[int]) -> bool:
    """Whether all regions that sentences are about are told the same, none of it denied or left open.

    Args:
        tokens: Of the sentences.
        several: Regions of which different things may be told.
    """
    for whole in _sentences(tokens):
        sentence = _without_denied_clauses(whole)
        places = {token for token in sentence if isinstance(token, int)}
        if any(_negates(token) for token in sentence) or len(places) > 1 and _CONTRASTS & set(sentence):
            return False
        last: int | None = None  # where the last region is that the sentence is about
        subjects = set(_subjects(sentence))
        for i, token in enumerate(sentence):
            if not isinstance(token, int):
                continue
            following = [word for word in sentence[i + 1:i + 3] if word != ","][:1]
            if following in (["or"], ["/"]):
                return False
            if token in subjects:
                if (last is not None and following and following[0] in _VERBS and _VERBS & set(sentence[last + 1:i])
                        and not subjects <= set(several)):
                    return False
                last = i
    return True


def _negates(token: Token) -> bool:
    return isinstance(token, str) and (token in _NEGATIONS or token.endswith("n't"))


def _without_denied_clauses(sentence: list[Token]) -> list[Token]:
    """Without clauses such as "region 1 isn't,", which deny what another one says of another region."""
    kept: list[Token] = []
    for clause in _clauses(sentence):
        if not (isinstance(clause[0], int) and _denied(clause, 0) and len(clause) <= 3
                and not (kept and isinstance(kept[-1], int))):
            kept += [*([","] if kept else []), *clause]
    return kept


def _clauses(sentence: list[Token]) -> list[list[Token]]:
    marks = [i for i, token in enumerate(sentence) if token == ","]
    clauses = [sentence[a + 1:b] for a, b in zip([-1, *marks], [*marks, len(sentence)])]
    return [clause for clause in clauses if clause]


def _of_the_asked(asked: Sequence[int], stated: Iterable[int]) -> list[int]:
    """The region asked about, where it is a single one and the answer is about no other."""
    return list(asked) if len(asked) == 1 and set(stated) <= set(asked) else []


def _asked(question: str, meant: int | None) -> list[int]:
    """The regions that a question is about; none where it is about one of several that it names."""
    if not question.isascii():
        return []
    tokens = _tokens(question)
    first = next((i for i, token in enumerate(tokens) if isinstance(token, int) or token in _PRONOUNS), None)
    if first is not None and meant is not None and not isinstance(tokens[first], int):
        tokens[first] = meant
    subjects = _subjects(tokens)
    others = any(isinstance(token, int) and token not in subjects for token in tokens)
    return [] if others and len(subjects) == 1 else subjects


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    listing = False  # "regions 2 and 3"
    for match in _TOKEN.finditer(text.casefold()):
        if match["place"]:
            tokens.append(int(match["place"]))
            listing = bool(match["plural"])
        elif listing and match[0].isdecimal() and tokens[-1] in _JOINS:
            tokens.append(int(match[0]))
        else:
            tokens.append(match[0].replace("’", "'"))
            listing = listing and match[0] in _JOINS
    return tokens


def _sentences(tokens: Iterable[Token]) -> list[list[Token]]:
    sentences: list[list[Token]] = [[]]
    for token in tokens:
        if token in _ENDS:
            sentences.append([])
        else:
            sentences[-1].append(token)
    return [sentence for sentence in sentences if sentence]


def _without_reasons(sentence: list[Token]) -> list[Token]:
    return sentence[:next((i for i, token in enumerate(sentence) if token in _REASONS), len(sentence))]


def _statement(sentences: list[list[Token]]) -> tuple[list[Token], list[Token], list[Token]]:
    """What is said before the statement, the statement, and what is said after it."""
    for number in range(len(sentences) - 1, -1, -1):
        sentence = sentences[number]
        for i in range(len(sentence) - 2, -1, -1):
            if (sentence[i] in _CONCLUSIONS and (i == 0 or sentence[i - 1] in (",", "and"))
                    and sentence[i + 1] not in _NOT_CONCLUDED):
                skipped = i + 1 + (sentence[i + 1] == ",")
                end = i - (i > 0 and sentence[i - 1] == ",")
                return [*_joined(sentences[:number]), *sentence[:end]], sentence[skipped:], []
    if sentences and sentences[0] == ["yes"]:
        sentences = [_joined(sentences[:2])[:1] + [","] + _joined(sentences[1:2]), *sentences[2:]]
    return [], sentences[0] if sentences else [], _joined(sentences[1:])


def _joined(sentences: Sequence[list[Token]]) -> list[Token]:
    joined: list[Token] = []
    for sentence in sentences:
        joined += [*([";"] if joined else []), *sentence]
    return joined


def _subjects(tokens: list[Token], sure: bool = False) -> list[int]:
    """The regions that sentences are about, in order. sure: without those that are denied or left open."""
    found: list[int] = []
    for sentence in _sentences(tokens):
        ranks: dict[int, int] = {}  # by index: 2 where the sentence is about it, 1 where it may be, 0 where it is not
        for i, token in enumerate(sentence):
            if isinstance(token, int):
                ranks[i] = _rank(sentence, i, ranks)
        best = max(ranks.values(), default=0)
        chosen = [i for i, rank in ranks.items() if rank == best > 0]
        if sure and any("or" in sentence[a + 1:b] and b - a <= 3 for a, b in zip(chosen, chosen[1:])):
            continue
        found += [int(sentence[i]) for i in chosen if not (sure and _denied(sentence, i))]
    return list(dict.fromkeys(found))


def _rank(sentence: list[Token], i: int, ranks: dict[int, int]) -> int:
    following = sentence[i + 1] if i + 1 < len(sentence) else ""
    at = i - 1
    while at >= 0 and sentence[at] in _FILLS:
        at -= 1
    if at < 0:
        return 2
    before = sentence[at]
    if isinstance(before, int):
        return ranks[at]
    if before in _JOINS:
        while at >= 0 and sentence[at] in _JOINS | _FILLS:
            at -= 1
        if at < 0 or sentence[at] in ("yes", "no"):
            return 2
        if not isinstance(sentence[at], int):
            return 2 if following in _VERBS else 0
        if ranks[at] == 0 and following in _VERBS and "between" not in sentence[:at]:
            return 2  # a new clause: "from region 2, region 3 is left"
        return ranks[at]
    if before == "of":
        return int(at > 0 and isinstance(sentence[at - 1], str) and sentence[at - 1] not in _PLACE_NOUNS)
    return 2 if before in _BEFORE_SUBJECT else int(before in _BEFORE_OBJECT)


def _denied(sentence: list[Token], i: int) -> bool:
    following = [token for token in sentence[i + 1:i + 3] if isinstance(token, str)]
    return len(following) > 0 and (following[0].endswith("n't") or following[0] in _VERBS and following[1:] == ["not"])
