"""What "this", "that", "these" and "it" in a question stand for: the regions that somebody points at."""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .grammar import VERBS, begins_name, ends_name, fold, word_after, word_before

_SINGULAR = re.compile(r"\b(?P<word>this|that)(?P<noun> (?:region|one|box|object|thing|item|area|spot|point|place))?"
                       r"(?![\w'])")
_PLURAL = re.compile(r"\b(?:these|those)(?: (?:two|regions|ones|boxes|objects|things|items))?(?![\w'])")
_IT = re.compile(r"\bit(?![\w'])")
# Questions that are about "it" and nothing else: not "is it raining?".
_ONLY_IT = re.compile(r"(?:and |so |but )?(?:describe|what(?:'s| is| was)|where(?:'s| is| was)|what (?:colou?r|shape|"
                      r"size|material|kind|type) (?:is|was)) it(?: made of| called)? ?[.?!]?")
# "Is this red?", "and is this small?": what stands before the word, and after it.
_ASKING = re.compile(r"(?:^|[.?!,;] ?|\b(?:and|or|so|but|why) )(?:is|was) $")
_ADJECTIVE = re.compile(r" \w+(?: ?[.?!]?$|,? (?:and|or|but) (?:is|was|does|has|can|what|where)\b)")
# "Is that right?" is about an answer.
_JUDGEMENT = re.compile(r" (?:right|correct|true|so|all|ok|okay|enough|it|clear|possible|wrong|happening) ?[.?!]?$")
_NO_POINTING = ("how do you know", "how come")
# Beside what may stand before a name: "tell me what this is", "what do you call this?".
_BEFORE_THIS = frozenset("""
    of what who where if whether read call use open put move bring lift push pull turn""".split())
# "Does this move?": not of "this mug", which no verb follows.
_AUXILIARIES = frozenset("does did can could will would should has".split())
_NOT_OF_THIS = frozenset("all most some much none because instead sense".split())
_WHOLE = ("(?:room|kitchen|bathroom|bedroom|office|workshop|factory|warehouse|laboratory|shop|restaurant|hospital|"
          "street|city|country|season|time of day|sport|event|scene|place|picture|photo|image|frame|video|simulation)")
# Without anything pointed at, these are about the whole picture.
_ABOUT_ALL = re.compile(rf"\b(?:what|which)(?: (?:kind|sort|type) of)? {_WHOLE} is (?:this|that)\b|\bthis place\b|"
                        rf"\bis (?:this|that) (?:a|an|the|your|my|our) (?:\w+ |black and white )?{_WHOLE}\b|"
                        r"\bis this (?:indoors|outdoors|inside|outside|in colou?r|daytime) ?[.?!]?$")


class PointingError(ValueError):
    """A question points at something, and what that is cannot be told."""


class Pointed(NamedTuple):
    """What a question points at.

    Attributes:
        ids: The regions, in the order in which they were drawn.
        shown: Whether they came with the question, and are not those that were spoken of last.
        follow_up: Whether something was said before: "that" and "it" may mean a word of it.
    """

    ids: tuple[str, ...]
    shown: bool = False
    follow_up: bool = False


def points(text: str) -> bool:
    """Whether a user's text speaks of a region as "this" or "that"."""
    folded, _ = fold(text)
    return bool(_pronouns(folded))


def pronouns(folded: str, pointed: Pointed, others: bool) -> list[tuple[int, int, tuple[str, ...]]]:
    """Finds the words of a question that point, and what each stands for.

    As many boxes as words are taken in order: "are this and this the same?". A single box is all of them, where they
    are not set beside one another. "These" are all.

    Args:
        folded: The question, what names regions blotted out.
        pointed: What is pointed at.
        others: Whether the question names regions, too; "it" may then be one of those.

    Returns:
        (start, end, the ids of the regions) of each.

    Raises:
        PointingError: Nothing is pointed at, or it is not clear which of several regions is meant.
    """
    ids, singular = pointed.ids, _pronouns(folded)
    found = [(*match.span(), ids) for match in _PLURAL.finditer(folded)
             if ids and (begins_name(folded, match.start()) or word_before(folded, match.start()) == "of")
             and ends_name(folded, match.end())]
    if singular:
        words = {match["word"] for match in singular}
        if not ids and (_ABOUT_ALL.search(folded) or words == {"that"} and pointed.follow_up):
            return []
        return [*found, *_in_order(singular[0]["word"], [match.span() for match in singular], ids,
                                   _apart(folded, singular))]
    only = not pointed.follow_up and _ONLY_IT.fullmatch(folded)
    if found or others or not (only or pointed.shown and len(ids) == 1):
        return found
    return _in_order("it", [match.span() for match in _IT.finditer(folded)][:1], ids, False)


def _in_order(word: str, spans: Sequence[tuple[int, int]], ids: tuple[str, ...],
              apart: bool) -> list[tuple[int, int, tuple[str, ...]]]:
    if spans and not ids:
        raise PointingError(f'the question speaks of "{word}" and nothing is pointed at, expected a box or a point '
                            'with it, or a region by name, such as "region 1"')
    if spans and len(ids) != len(spans) and (len(ids) > 1 or apart):
        raise PointingError(f'the question speaks of "{word}", and what is pointed at is {", ".join(ids[:8])}: '
                            f"{len(ids)} where {len(spans)} {'is' if len(spans) == 1 else 'are'} expected, or regions "
                            "by name")
    return [(*span, (region_id,)) for span, region_id in zip(spans, ids * len(spans))]


def _apart(folded: str, singular: Sequence[re.Match[str]]) -> bool:
    """Whether words that point are set beside one another, as in "this and this", or "is this left of that?"."""
    between = (folded[first.end():second.start()] for first, second in zip(singular, singular[1:]))
    return len({match["word"] for match in singular}) > 1 or any(gap.strip(" ,") in ("and", "or") for gap in between)


def _pronouns(folded: str) -> list[re.Match[str]]:
    if folded.startswith(_NO_POINTING):
        return []
    found = [match for match in _SINGULAR.finditer(folded) if _is_pronoun(folded, match)]
    # "Why is this red?" points; "why is that?" asks about an answer.
    return [match for match in found if match["word"] == "this" and word_after(folded, match.end()).isalpha()] \
        if folded.startswith("why") else found


def _is_pronoun(folded: str, match: re.Match[str]) -> bool:
    """Whether the word stands for a region: not in "this picture", nor in "the mug that is red"."""
    if match["word"] == "this" and match["noun"]:
        return True
    if _JUDGEMENT.match(folded, match.end()):
        return False
    if _ASKING.search(folded[:match.start()]) and _ADJECTIVE.match(folded, match.end()):
        return True
    before, after = word_before(folded, match.start()), word_after(folded, match.end())
    if before in _AUXILIARIES:
        return after in VERBS or not after.isalpha()
    if not ends_name(folded, match.end()):
        return False
    if match["word"] == "that" and before in ("", "\0"):
        return not after.isalpha()
    if before == "of":
        return word_before(folded, match.start() - len("of ")) not in _NOT_OF_THIS
    return before in _BEFORE_THIS or begins_name(folded, match.start())
