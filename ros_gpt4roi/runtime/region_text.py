"""How people and the model speak of regions: "region 2" (an id) outside, <region2> or region2 (a place) inside.

An id is any string a detector gives; a place is the region's position, counted from 1, among those the model was shown.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from .assertions import assertions
from .grammar import begins_name, ends_name, fold, word_after, word_before
from .pointing import Pointed, pronouns

# The model's: "region2", "Region 2", "regions 2 and 3".
_AND = "(?:, ?(?:and |or )?| and | or )"
_PLACES = re.compile(rf"(?<![A-Za-z0-9_])([Rr]egion)(?:\s?(\d+)|s\s(\d+(?:{_AND}\d+)*))(?!\d)")
_UNFINISHED = re.compile(rf"(?<![A-Za-z0-9_])[Rr]egion(?:\s?\d*|s\s?|s\s\d+(?:{_AND}\d+)*(?:,? ?(?:an?d?|or?)? ?))$")

# All patterns below are for folded text (see `fold`), so they need not ignore case.
# Letters that are written without spaces between words, or to which particles are joined: Thai to Burmese, kana, Han
# and Hangul. A name may end before any of them: "region 2是什么".
JOINED = "\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7af"
_LETTER = rf"[^\W{JOINED}]"
_LATIN = "a-z0-9_\u00df-\u024f"
# What may not follow a name, by its last letter: it would be the beginning of a longer one.
_LONGER = ((re.compile(rf"[{JOINED}]"), re.compile(r"[0-9_\-]")),
           (re.compile(rf"[{_LATIN}\-]"), re.compile(rf"[{_LATIN}\-]")),
           (re.compile("."), re.compile(rf"{_LETTER}|-")))
_HEAD = re.compile(rf"(?<![{_LATIN}<])regions? ?(?::|#|no\.|no(?= \d)|nr\.?(?= ?\d)|number(?= \d))? ?")
_OPEN = re.compile("(?:# ?)?(?:[\"'“‘«「『(\\[] ?)?")
_CLOSE = re.compile(" ?[\"'”’»」』)\\]]")
_SEPARATOR = re.compile(r" ?[,、] ?(?:and |or )?| and | or | ?(?:&|和|与|或|と|や|및|과|와) ?")
# What follows "region" is taken for an id if it looks like one; "which region is left of …" names none.
_ID_LIKE = re.compile(rf"#?(?:{_LETTER}|[\-./])*\d(?:{_LETTER}|[\-/]|\.(?=\d))*")
_NUMBERS = {word: str(number) for number, word in enumerate(
    "one two three four five six seven eight nine ten eleven twelve".split(), start=1)}
_NUMBER_WORDS = "|".join(word for word in _NUMBERS if word != "one")
_UNKNOWN = re.compile(rf"{_HEAD.pattern}(?:[“‘\"']([^\"'“”‘’]+)[”’\"']|{_OPEN.pattern}({_ID_LIKE.pattern})"
                      rf"|({_NUMBER_WORDS})\b)")
_LISTED = re.compile(rf"(?<![{_LATIN}<])regions {_ID_LIKE.pattern}(?:(?:{_SEPARATOR.pattern}){_ID_LIKE.pattern})+")

# Regions are also spoken of without that word. What could be a mere number has to stand where a region's name would.
_NUMBERED = re.compile(rf"(?<![{_LATIN}<#])(?:(?P<word>numbers?|no\.|nr\.|(?:objects?|box(?:es)?)(?= [\d#])) ?|# ?)"
                       rf"(?=(?P<number>\d+(?:\.\d+)?(?!\w|\.\d)|(?:{_NUMBER_WORDS})\b)|[a-z])")
_ORDINALS = {word: str(number) for number, word in enumerate(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(), start=1)}
_ORDINAL = re.compile(rf"\bthe (?:({'|'.join(_ORDINALS)})|(\d+)(?:st|nd|rd|th)) (?:one|region|box|object)(?!\w)"
                      r"(?! (?:from|on|in|at|to|of|that|which|who|you|i|we|behind|before|after|above|below|beside|near|"
                      r"left|right|counting)\b)")
_BARE = re.compile(r"(?<![\w.,:%+*/$€#<-])\d+(?:(?: ?, ?(?:and |or )?| and | or | ?& ?)\d+)*(?![\w%°]|[.,:/-]\d)")
_COUNTING = re.compile(r"\bhow (?:many|much|old)\b|\bcount\b|\bnumber of\b|\b(?:from|scale of) \d+ to \d+|"
                       r"\b(?:more|less|fewer|other|rather) than \d")
_DECIMALS = re.compile(r"\.\d")
_UNITS = frozenset("percent degrees times plus minus mm cm m km g kg metres meters grams seconds minutes hours".split())
# "1 through 3" and "1-3"; "1 to 3" only after "regions" and the like.
_RANGE = re.compile(rf"(?<![\w.,:%+*/$€#<-])(?P<first>\d{{1,4}}|{_NUMBER_WORDS}|one)"
                    rf"(?: ?[-–—] ?| (?:through|thru|(?P<to>to)) )(?P<last>\d{{1,4}}|{_NUMBER_WORDS})"
                    r"(?![\w%°]|[.,:/-]\d| ?[-–—] ?\d)", re.IGNORECASE)
_RANGE_HEAD = re.compile(r"\b(?:region|(?P<several>regions|numbers|boxes|objects)) ?$", re.IGNORECASE)

_MOST_RANGES = 16  # of a text; each may become as many names as there are regions
_LONGEST_SHOWN = 100  # characters of an unknown name


class UnknownRegionError(ValueError):
    """A text speaks of a region that is not there; the message names it and those that are."""


class RegionText:
    """Translates between ids and places, for one frame.

    Understood are "region 2", "regions 2 and 3", "regions 1 to 3", "1 through 3", "region two", "number 2", "#2",
    "the second one", an id by itself if it is no mere word ("mug_3"), and mere numbers where a name would stand ("is 2
    left of 3?"); "this", as what is pointed at. A number that counts or measures something is none ("are there 2
    balls?").

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

    def to_model(self, text: str, pointed: Pointed | None = None) -> str:
        """Marks the regions in a user's text.

        Args:
            text: The text, such as "what is left of region 2?".
            pointed: What "this" and the like stand for; None leaves them as they are.

        Returns:
            The text with every region as <regionK>.

        Raises:
            UnknownRegionError: The text speaks of a region that is not there, be it by "this".
            PointingError: It speaks of "this", and which region that is cannot be told.
        """
        text = self._spelled_out(text)
        folded, places = fold(text)
        for listed in _LISTED.finditer(folded):  # "regions 1 and 7": the second would read as a mere number
            for word in _ID_LIKE.findall(listed[0]):
                if _name(word.strip("#")) not in self._folded:
                    raise UnknownRegionError(self._unknown(word.strip("#")))
        found: list[tuple[int, int, tuple[int, ...]]] = []  # start and end of a mention in the folded text, its places
        rest = folded  # with what was found blotted out

        def take(mentions: Iterable[tuple[int, int, slice]]) -> None:
            nonlocal rest
            letters = list(rest)
            for start, end, name in mentions:
                written = text[places[name.start]:places[name.stop]]
                found.append((start, end, (self._places.get(written) or self._folded[folded[name]],)))
                letters[start:end] = "\0" * (end - start)
            rest = "".join(letters)

        take(self._mentions(rest, _HEAD))
        take(self._mentions(rest, _NUMBERED))
        if stranger := _UNKNOWN.search(rest):
            raise UnknownRegionError(self._unknown((stranger[1] or stranger[2] or stranger[3]).strip("#.").strip()))
        if self._distinctive is not None:
            take((match.start(), match.end(), slice(*match.span())) for match in self._distinctive.finditer(rest)
                 if not _goes_on(match[0][-1], rest[match.end():match.end() + 2]))
        for match in _NUMBERED.finditer(rest):
            if match["number"] and match["number"] not in self._folded and _introduced(rest, match):
                raise UnknownRegionError(self._unknown(match["number"]))
        more: list[tuple[int, int, tuple[int, ...]]] = []
        for match in _ORDINAL.finditer(rest):
            number = _ORDINALS.get(match[1], match[2])
            if number in self._folded:
                more.append((*match.span(), (self._folded[number],)))
            elif int(number) > len(self.ids):
                raise UnknownRegionError(self._unknown(number))
        more += self._numbers(rest)
        if pointed is not None:
            for start, end, ids in pronouns(rest, pointed, others=bool(found or more)):
                if strangers := [region_id for region_id in ids if region_id not in self._places]:
                    raise UnknownRegionError(self._unknown(_name(strangers[0])))
                more.append((start, end, tuple(self._places[region_id] for region_id in ids)))
        marked, done = [], 0
        for start, end, meant in sorted([*found, *more]):
            marked += [text[places[done]:places[start]], _listing([f"<region{place}>" for place in meant])]
            done = end
        return "".join([*marked, text[places[done]:]])

    def _spelled_out(self, text: str) -> str:
        """The text with "regions 1 to 3", "region 1-3" and "1 through 3" as lists, where they are no names."""
        lowered = "".join(letter.lower()[:1] for letter in text)  # each letter at its place

        def listed(match: re.Match[str]) -> str:
            head = _RANGE_HEAD.search(text, max(0, match.start() - 12), match.start())
            names = head and head["several"] if match["to"] else head or (
                begins_name(lowered, match.start()) and ends_name(lowered, match.end()))
            if not names or _name(match[0]) in self._folded:
                return match[0]
            first, last = (int(_NUMBERS.get(bound.casefold(), bound)) for bound in (match["first"], match["last"]))
            if first >= last:
                raise UnknownRegionError(self._unknown(match[0]))
            numbers = [str(number) for number in range(first, last + 1)]
            for number in numbers:
                if number not in self._folded:
                    raise UnknownRegionError(self._unknown(number))
            return _listing(numbers)

        return _RANGE.sub(listed, text, _MOST_RANGES)

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

    def _numbers(self, folded: str) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Mere numbers that stand where regions' names would; one that names none is unknown."""
        if _COUNTING.search(folded):
            return
        for match in _BARE.finditer(folded):
            numbers = list(re.finditer(r"\d+", match[0]))
            subject = (len(numbers) == 1 and word_before(folded, match.start()) in ("is", "was")
                       and (after := word_after(folded, match.end())).isalpha() and after not in _UNITS)  # "is 2 red?"
            if (subject or ends_name(folded, match.end())) and begins_name(folded, match.start()):
                for number in numbers:
                    if number[0] not in self._folded:
                        raise UnknownRegionError(self._unknown(number[0]))
                    yield (match.start() + number.start(), match.start() + number.end(), (self._folded[number[0]],))

    def _name_at(self, folded: str, place: int) -> tuple[int, slice] | None:
        opening = _OPEN.match(folded, place)
        # A name may itself begin with a bracket.
        for begin in dict.fromkeys((opening.end() if opening else place, place)):
            for name in self._names:
                end = begin + len(name)
                if folded.startswith(name, begin) and not _goes_on(name[-1], folded[end:end + 2]):
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


def _name(written: str) -> str:
    """The folded form of a name, by which it is looked up."""
    return fold(written)[0].strip()


def _introduced(folded: str, numbered: re.Match[str]) -> bool:
    """Whether "number 2" names a region, as "#2" does; "the number 2" and "phone number 2" do not."""
    start = numbered.start()
    return (numbered["word"] is None or begins_name(folded, start)
            or word_before(folded, start).isdecimal())  # "box 1 box 2"


def _goes_on(last: str, following: str) -> bool:
    """Whether what follows a name makes it the beginning of a longer one.

    Args:
        last: The name's last letter.
        following: The two letters after it.
    """
    longer = next(longer for letters, longer in _LONGER if letters.match(last))
    return longer.match(following) is not None or last.isdecimal() and _DECIMALS.match(following) is not None


def _listing(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
