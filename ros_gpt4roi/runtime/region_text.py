"""How people and the model speak of regions: "region 2" (an id) outside, <region2> or region2 (a place) inside.

An id is any string a detector gives; a place is the region's position, counted from 1, among those the model was shown.
"""
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from .assertions import assertions

# The model's: "region2", "Region 2", "regions 2 and 3".
_AND = "(?:, ?(?:and |or )?| and | or )"
_PLACES = re.compile(rf"(?<![A-Za-z0-9_])([Rr]egion)(?:\s?(\d+)|s\s(\d+(?:{_AND}\d+)*))(?!\d)")
_UNFINISHED = re.compile(rf"(?<![A-Za-z0-9_])[Rr]egion(?:\s?\d*|s\s?|s\s\d+(?:{_AND}\d+)*(?:,? ?(?:an?d?|or?)? ?))$")

# All patterns below are for folded text (see `_fold`), so they need not ignore case.
# Letters that are written without spaces between words, or to which particles are joined: Thai to Burmese, kana, Han
# and Hangul. A name may end before any of them: "region 2是什么".
_JOINED = "\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7af"
_LETTER = rf"[^\W{_JOINED}]"
_LATIN = "a-z0-9_\u00df-\u024f"
# What may not follow a name, by its last letter: it would be the beginning of a longer one.
_LONGER = ((re.compile(rf"[{_JOINED}]"), re.compile(r"[0-9_\-]")),
           (re.compile(rf"[{_LATIN}\-]"), re.compile(rf"[{_LATIN}\-]")),
           (re.compile("."), re.compile(rf"{_LETTER}|-")))
_HEAD = re.compile(rf"(?<![{_LATIN}<])regions? ?(?::|#|no\.|no(?= \d)|nr\.?(?= ?\d)|number(?= \d))? ?")
_OPEN = re.compile("(?:# ?)?(?:[\"'“‘«「『(\\[] ?)?")
_CLOSE = re.compile(" ?[\"'”’»」』)\\]]")
_SEPARATOR = re.compile(r" ?[,、] ?(?:and |or )?| and | or | ?(?:&|和|与|或|と|や|및|과|와) ?")
# What follows "region" is taken for an id if it looks like one; "which region is left of …" names none.
_ID_LIKE = re.compile(rf"#?(?:{_LETTER}|[\-./])*\d(?:{_LETTER}|[\-/])*")
_NUMBERS = {word: str(number) for number, word in enumerate(
    "one two three four five six seven eight nine ten eleven twelve".split(), start=1)}
_NUMBER_WORDS = "|".join(word for word in _NUMBERS if word != "one")
_UNKNOWN = re.compile(rf"{_HEAD.pattern}(?:[“‘\"']([^\"'“”‘’]+)[”’\"']|{_OPEN.pattern}({_ID_LIKE.pattern})"
                      rf"|({_NUMBER_WORDS})\b)")
_LISTED = re.compile(rf"(?<![{_LATIN}<])regions {_ID_LIKE.pattern}(?:(?:{_SEPARATOR.pattern}){_ID_LIKE.pattern})+")

# Regions are also spoken of without that word. What could be a mere number has to stand where a region's name would.
_NUMBERED = re.compile(rf"(?<![{_LATIN}<#])(?:(?P<word>numbers?|no\.|nr\.) ?|# ?)"
                       rf"(?=(?P<number>\d+(?![\w.])|(?:{_NUMBER_WORDS})\b)|[a-z])")
_ORDINALS = {word: str(number) for number, word in enumerate(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(), start=1)}
_ORDINAL = re.compile(rf"\bthe (?:({'|'.join(_ORDINALS)})|(\d+)(?:st|nd|rd|th)) (?:one|region|box|object)(?!\w)"
                      r"(?! (?:from|on|in|at|to|of|that|which|who|you|i|we|behind|before|after|above|below|beside|near|"
                      r"left|right|counting)\b)")
_BARE = re.compile(r"(?<![\w.,:%+*/$€#<-])\d+(?:(?: ?, ?(?:and |or )?| and | or | ?& ?)\d+)*(?![\w%°]|[.,:/-]\d)")
_COUNTING = re.compile(r"\bhow (?:many|much|old)\b|\bcount\b|\bnumber of\b|\bfrom \d+ to \d+|"
                       r"\b(?:more|less|fewer|other|rather) than \d")
_THIS = re.compile(r"\bthis(?P<noun> (?:region|one|box|object|thing|item|area|spot|point|place))?(?![\w'])")
_IS_THIS = re.compile(r"(?:and |so |but )?(?:is|was) this \w+ ?[.?!]?")  # "is this red?"
_IT = re.compile(r"\bit(?![\w'])")
_BEFORE_NAME = frozenset("""
    is are was were do does did has have describe compare name about in to than from between behind beside near under
    above below around with and or what's where's see show find like""".split())
_BEFORE_OF = frozenset("left right front top side color colour kind type material size shape which".split())
_AFTER_NAME = frozenset("""
    and or is are was than left right in on behind near next closer further larger smaller bigger taller the a an from
    to look looks have has do does called made still both between above below under beside not with""".split())

_LONGEST_SHOWN = 100  # characters of an unknown name


class UnknownRegionError(ValueError):
    """A text speaks of a region that is not there; the message names it and those that are."""


class RegionText:
    """Translates between ids and places, for one frame.

    Understood are "region 2", "regions 2 and 3", "region two", "number 2", "#2", "the second one", an id by itself if
    it is no mere word ("mug_3"), and mere numbers where a name would stand ("is 2 left of 3?"); "this", where it is
    known what that is. A number that counts or measures something is none ("are there 2 balls?").

    Names are matched by their compatibility form without case (NFKC, case-folded): "CUP" and a full-width "２" name
    "cup" and "2"; a dotless "ı" is no "i".

    Args:
        ids: Of the regions the model was shown, in the order of their places.
        left_out: Ids of regions that it was not shown, because there were too many.
    """

    def __init__(self, ids: Sequence[str], left_out: Sequence[str] = ()):
        self.ids, self._left_out = tuple(ids), frozenset(left_out)
        self._places: dict[str, int] = {}
        self._folded: dict[str, int] = {}
        for place, region_id in enumerate(self.ids, start=1):
            self._places.setdefault(region_id, place)
            self._folded.setdefault(_name(region_id), place)
        for word, number in _NUMBERS.items():
            if number in self._folded:
                self._folded.setdefault(word, self._folded[number])
        # The longest first: "cup 12" is not "cup 1".
        self._names = sorted(filter(None, self._folded), key=len, reverse=True)

    @cached_property  # every frame has names, and few are asked about
    def _distinctive(self) -> re.Pattern[str] | None:
        """Names that are found without the word "region" before them; a mere word or number is not."""
        distinctive = [re.escape(name) for name in self._names
                       if re.search(r"\d", name) and re.search(r"[^\W\d]", name)]
        return re.compile(rf"(?<![\w<-])(?:{'|'.join(distinctive)})") if distinctive else None

    def to_model(self, text: str, this: str = "", it: bool = False) -> str:
        """Marks the regions in a user's text.

        Args:
            text: The text, such as "what is left of region 2?".
            this: The id of the region that "this" means; empty where it means none.
            it: Whether "it" means that region, too, in a text that speaks of no other.

        Returns:
            The text with every region as <regionK>.

        Raises:
            UnknownRegionError: The text speaks of a region that is not there, be it by "this".
        """
        folded, places = _fold(text)
        for listed in _LISTED.finditer(folded):  # "regions 1 and 7": the second would read as a mere number
            for word in _ID_LIKE.findall(listed[0]):
                if _name(word.strip("#")) not in self._folded:
                    raise UnknownRegionError(self._unknown(word.strip("#")))
        found: list[tuple[int, int, int]] = []  # where a mention starts and ends in the folded text, and its place
        rest = folded  # with what was found blotted out

        def take(mentions: Iterable[tuple[int, int, slice]]) -> None:
            nonlocal rest
            for start, end, name in mentions:
                written = text[places[name.start]:places[name.stop]]
                found.append((start, end, self._places.get(written) or self._folded[folded[name]]))
            for start, end, _ in found:
                rest = rest[:start] + "\0" * (end - start) + rest[end:]

        take(self._mentions(rest, _HEAD))
        take(self._mentions(rest, _NUMBERED))
        if stranger := _UNKNOWN.search(rest):
            raise UnknownRegionError(self._unknown((stranger[1] or stranger[2] or stranger[3]).strip("#.").strip()))
        if self._distinctive is not None:
            take((match.start(), match.end(), slice(*match.span())) for match in self._distinctive.finditer(rest)
                 if not _goes_on(match[0][-1], rest[match.end():match.end() + 1]))
        for match in _NUMBERED.finditer(rest):
            if match["number"] and _introduced(rest, match):
                raise UnknownRegionError(self._unknown(match["number"]))
        more = []
        for match in _ORDINAL.finditer(rest):
            number = _ORDINALS.get(match[1], match[2])
            if number in self._folded:
                more.append((*match.span(), self._folded[number]))
            elif int(number) > len(self.ids):
                raise UnknownRegionError(self._unknown(number))
        more += self._numbers(rest)
        if this:
            meant = [match.span() for match in _THIS.finditer(rest) if _is_pronoun(rest, match)]
            if it and not found and not more and not meant:
                meant = [match.span() for match in _IT.finditer(rest)][:1]
            if meant and this not in self._places:
                raise UnknownRegionError(self._unknown(_name(this)))
            more += [(*span, self._places[this]) for span in meant]
        marked, done = [], 0
        for start, end, place in sorted([*found, *more]):
            marked += [text[places[done]:places[start]], f"<region{place}>"]
            done = end
        return "".join([*marked, text[places[done]:]])

    def _mentions(self, folded: str, heads: re.Pattern[str]) -> Iterator[tuple[int, int, slice]]:
        """(start, end, where the name stands) of each region spoken of: after a head, and in a list after that."""
        head = heads.search(folded)
        while head is not None:
            start, place, end = head.start(), head.end(), head.end()
            if heads is _NUMBERED and not _introduced(folded, head):
                head = heads.search(folded, end)
                continue
            while (found := self._name_at(folded, place)) is not None:
                end, name = found
                yield start, end, name
                separator = _SEPARATOR.match(folded, end)
                if separator is None:
                    break
                start = separator.end()
                again = heads.match(folded, start)
                place = again.end() if again else start
            head = heads.search(folded, end)

    def _numbers(self, folded: str) -> Iterator[tuple[int, int, int]]:
        """Mere numbers that name regions, all of a list or none."""
        if _COUNTING.search(folded):
            return
        for match in _BARE.finditer(folded):
            numbers = list(re.finditer(r"\d+", match[0]))
            before, after = _word_before(folded, match.start()), _word_after(folded, match.end())
            subject = len(numbers) == 1 and before in ("is", "was") and after.isalpha()  # "is 2 red?"
            if (all(number[0] in self._folded for number in numbers) and (subject or _ends_name(after))
                    and _begins_name(folded, match.start(), before)):
                for number in numbers:
                    yield (match.start() + number.start(), match.start() + number.end(), self._folded[number[0]])

    def _name_at(self, folded: str, place: int) -> tuple[int, slice] | None:
        opening = _OPEN.match(folded, place)
        # A name may itself begin with a bracket.
        for begin in dict.fromkeys((opening.end() if opening else place, place)):
            for name in self._names:
                end = begin + len(name)
                if folded.startswith(name, begin) and not _goes_on(name[-1], folded[end:end + 1]):
                    closing = _CLOSE.match(folded, end) if begin > place else None
                    return (closing.end() if closing else end), slice(begin, end)
        return None

    def _unknown(self, name: str) -> str:
        if name in map(_name, self._left_out):
            return (f"region {name!r} was left out: the frame has more regions than the {len(self.ids)} that the model "
                    "takes, those with the highest score")
        name = name if len(name) <= _LONGEST_SHOWN else name[:_LONGEST_SHOWN] + "…"
        shown = ", ".join(self.ids[:20]) + (", …" if len(self.ids) > 20 else "")
        return f"there is no region {name!r}, expected one of this frame's: {shown or 'it has none'}"

    def to_user(self, text: str) -> str:
        """The model's text with its places as "region <id>"; a place that is not there stays as the model wrote it."""
        def named(match: re.Match[str]) -> str:
            if match[2]:
                return f"{match[1]} {self._id(match[2])}" if self._id(match[2]) is not None else match[0]
            listed = re.sub(r"\d+", lambda place: self._id(place[0]) or place[0], match[3])
            return f"{match[1]}s {listed}"

        return _PLACES.sub(named, text)

    def _id(self, place: str) -> str | None:
        return self.ids[int(place) - 1] if 1 <= int(place) <= len(self.ids) else None

    def mentioned(self, text: str) -> tuple[str, ...]:
        """The ids a model text speaks of, in the order of first mention."""
        places = re.findall(r"\d+", " ".join(match[2] or match[3] for match in _PLACES.finditer(text)))
        return tuple(dict.fromkeys(name for place in places if (name := self._id(place)) is not None))

    def asserted(self, question: str, answer: str, meant: str = "",
                 complete: bool = True) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The ids of the regions that a model text asserts, and of those that it names as evidence.

        Args:
            question: In the model's words.
            answer: In the model's words.
            meant: The id of the region that "it" and "this" mean in the question; empty where they mean none.
            complete: Whether the answer was written to its end.
        """
        it = self._places.get(meant)
        asserted, evidence = ([name for place in places if (name := self._id(str(place))) is not None]
                              for places in assertions(question, answer, it, complete))
        return tuple(asserted), tuple(evidence)

    @staticmethod
    def unfinished(text: str) -> int:
        """How many last characters of a model text may be the beginning of a longer mention."""
        match = _UNFINISHED.search(text)
        return len(match[0]) if match else 0


def speaks_of_this(text: str) -> bool:
    """Whether a user's text speaks of a region as "this"."""
    folded, _ = _fold(text)
    return any(_is_pronoun(folded, match) for match in _THIS.finditer(folded))


def _fold(text: str) -> tuple[str, list[int]]:
    """The text in compatibility form without case, and for each of its characters, and its end, the place in `text`.

    A letter is folded together with the marks that follow it, so that both ways to write it become one; so is a run of
    white space.
    """
    folded, places, start = [], [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and (unicodedata.combining(text[end]) or "\u1160" <= text[end] <= "\u11ff"
                                   or text[start].isspace() and text[end].isspace()):
            end += 1
        piece = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[start:end]).casefold())
        piece = " " if piece.isspace() else piece
        folded.append(piece)
        places += [start] * len(piece)
        start = end
    return "".join(folded), [*places, len(text)]


def _name(written: str) -> str:
    """The folded form of a name, by which it is looked up."""
    return _fold(written)[0].strip()


def _word_before(folded: str, place: int) -> str:
    """The word or mark that stands before a place; empty at the beginning."""
    found = re.search(r"(?:[^\W\d_]+(?:'[a-z]+)?|\S) ?$", folded[max(0, place - 40):place])
    return found[0].strip() if found else ""


def _word_after(folded: str, place: int) -> str:
    found = re.match(r" ?([^\W\d_]+|\S)", folded[place:place + 40])
    return found[1] if found else ""


def _begins_name(folded: str, place: int, before: str) -> bool:
    """Whether a region's name may begin there, after the word `before`."""
    if before == "of":
        return _word_before(folded, place - len("of ")) in _BEFORE_OF
    return before in _BEFORE_NAME or before in ("", "\0") or before in ",:;(\"“‘"


def _ends_name(after: str) -> bool:
    return after in _AFTER_NAME or after in ("", "\0") or after in ".?!,;:)\"”’"


def _introduced(folded: str, numbered: re.Match[str]) -> bool:
    """Whether "number 2" names a region, as "#2" does; "the number 2" and "phone number 2" do not."""
    start = numbered.start()
    return numbered["word"] is None or _begins_name(folded, start, _word_before(folded, start))


def _is_pronoun(folded: str, this: re.Match[str]) -> bool:
    """Whether "this" stands for a region: not in "this picture", nor in "why is this?"."""
    if folded.startswith(("why", "how do you know", "how come")):
        return False
    if this["noun"] or _IS_THIS.fullmatch(folded):
        return True
    before, after = _word_before(folded, this.start()), _word_after(folded, this.end())
    return _begins_name(folded, this.start(), before) and _ends_name(after)


def _goes_on(last: str, following: str) -> bool:
    """Whether the letter after a name makes it the beginning of a longer one. last: the name's last letter."""
    longer = next(longer for letters, longer in _LONGER if letters.match(last))
    return longer.match(following) is not None
