"""What a recognised sentence means: a question, a correction, an order to the voice itself, or none of these."""
from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from .recogniser import Transcript


@dataclass(frozen=True)
class Question:
    """Something to ask, in the person's words."""

    text: str


@dataclass(frozen=True)
class Correction:
    """What a person says about the robot's last words, or about its description of a region.

    Attributes:
        right: Whether it is right.
        subject: What it is about, such as "region 2"; empty, "it" or "that": what was said last.
        instead: What would have been right, such as "a valve"; may be empty.
    """

    right: bool
    subject: str = ""
    instead: str = ""


@dataclass(frozen=True)
class NewConversation:
    """The next question opens a conversation."""


@dataclass(frozen=True)
class Courtesy:
    """Words that want no reply, such as "thank you" and "stop"."""


@dataclass(frozen=True)
class Unclear:
    """No question, as far as can be told."""


Meaning = Question | Correction | NewConversation | Courtesy | Unclear

_INTERROGATIVE = re.compile(
    r"(?:what|what's|which|who|who's|whose|where|where's|when|why|how|how's|is|isn't|are|aren't|was|were|do|does|did|"
    r"can|could|would|will|should|has|have)\b")
_IMPERATIVE = re.compile(r"(?:describe|tell|show|name|count|compare|find|locate|detect|search|list|explain|point|"
                         r"identify|look)\b")
_LEADING = re.compile(r"^(?:(?:please|and|so|but|then|okay|ok|now|well|um|uh|also|or|hello|hi)\b[ ,]*)+")
_NO = re.compile(r"^(?:(?:no|nope|wrong|incorrect|actually|sorry|that(?:'s| is| was)? (?:wrong|not right|not correct|"
                 r"incorrect)|you(?:'re| are) wrong)\b[,.!; ]*)+")
# Begins with a no or a sorry, and corrects nobody.
_NO_CORRECTION = re.compile(r"^(?:no (?:problems?|worries|way|idea|doubt|wonder|need|matter|chance|hurry|rush|thanks?|"
                            r"more|longer|one|other|such|big deal|kidding|comment|clue|trouble|sooner|use|point)\b|"
                            r"(?:sorry|actually)[.! ]*$)")
# What people say of themselves and each other is not about what the robot sees.
_OPINION = re.compile(r"^(?:i(?:'d| would)?|you) (?:think|thought|mean|meant|believe|guess|said|say|see)(?: that)?,? ")
_PERSONAL = re.compile(r"(?:i|i'm|i've|i'd|i'll|you|you're|you've|you'll|we|we're|we've|we'll|he|he's|he'll|she|she's|"
                       r"she'll|my|your|our|his|her|me|him|us|for|about|to)\b")
_YES = re.compile(r"^(?:(?:yes[,. ]+|yeah[,. ]+)?(?:that(?:'s| is| was)|you(?:'re| are)) (?:right|correct)|correct)"
                  r"[.! ]*$")
_IS = re.compile(r"^(?P<subject>.{1,60}?)(?:'s| is| was| are)(?: actually| really| in fact| rather)? "
                 r"(?!not\b)(?P<instead>.{1,200})$")
_IS_NOT = re.compile(r"^(?P<subject>.{1,60}?)(?:'s| is| was)(?:n't| not) [^,;.]{1,100}?(?:[,;.]| but)\s*(?:but\s+)?"
                     r"(?:(?:it|that|this)(?:'s| is)\s+)?(?P<instead>.{1,200})$")
_COURTESY = re.compile(r"^(?:(?:thank you|thanks|stop|stop it|quiet|be quiet|silence|never ?mind|okay|ok|enough|"
                       r"all right|very much|good|great|please)[,.! ]*)+$")
_NEW = re.compile(r"^(?:(?:(?:start|begin|open) )?(?:a )?(?:new conversation|new topic)|"
                  r"(?:let's )?start (?:over|again))[.! ]*$")
# "Is region 2 red?" is often heard as "If region 2 red", which has no verb; with one, "if" was said.
_IF = re.compile(r"^if(?= (?:regions?|number|the|it|this|that|there)\b)(?!.*\b(?:is|are|was|were|has|have|do|does|did|"
                 r"can|could|will|would|should|\w+s|you|i|we)\b)", re.IGNORECASE)
# Words that were lost, or ran into each other: where no sentence has the first, the second was said.
_RUN_TOGETHER = (
    (re.compile(r"\bthe (?=(?:regions?|number) (?:\d|one\b|two\b|three\b|four\b|five\b))", re.IGNORECASE), ""),
    (re.compile(r"^it's (?=(?:region|number) \w+,? (?!that|which|who|on|in|at|by|and|not|again|please|now|then|but)\w)",
                re.IGNORECASE), "Is "),
    (re.compile(r"^(what|how) (?:2|two|to|too) (?=regions \w+ and \w+ \w)", re.IGNORECASE), r"\1 do "),
    (re.compile(r"\b(small|light|dark|long|short|hard|full)er (large|big|dark|light|short|long|soft|empty)\b",
                re.IGNORECASE), r"\1 or \2"),
    (re.compile(r"^(region \w+),? (?=\w+ or \w+\W*$)", re.IGNORECASE), r"Is \1 "),
    (re.compile(r"^what (?=regions? (?:is|are|was|were|has|have|can|could|shows?|looks?|holds?)\b)", re.IGNORECASE),
     "Which "))
# The number was cut off, or not heard; "the largest region" and "which region" are whole.
_NAMELESS = re.compile(r"\b(?:is|of|about|describe|and|or|to|in|does|has) region\W*$", re.IGNORECASE)
_BREAK = re.compile(r"([.?!]) +(?!\d)")
# Numbers that sound like other words, where only a number can stand.
_SOUNDS = {"to": "2", "too": "2", "for": "4", "won": "1", "ate": "8", "tree": "3", "free": "3", "sex": "6"}
_MISHEARD = re.compile(rf"\b(regions?|number) ({'|'.join(_SOUNDS)})"
                       r"(?=\s*(?:[?.!,]|$)|\s+(?:is|are|and|or|made|look)\b)", re.IGNORECASE)
_REGION = re.compile(r"\b(?:reagan|regent|regions?'s|legion|reason|religion)(?= (?:number )?(?:\d+|one|two|three|four|"
                     r"five|six|seven|eight|nine|ten|eleven|twelve)\b)", re.IGNORECASE)


def meaning_of(text: str) -> Meaning:
    """Tells what a sentence means.

    Args:
        text: As it was recognised, with or without punctuation.
    """
    text = repaired(text)
    lowered = _simple(text)
    if not re.search(r"[^\W_]", lowered):
        return Unclear()
    if _NEW.match(lowered):
        return NewConversation()
    if _COURTESY.match(lowered):
        return Courtesy()
    if _YES.match(lowered):
        return Correction(right=True)
    no = _NO.match(lowered)
    rest = text[no.end():] if no else text
    if asks(rest) or rest.rstrip().endswith("?"):
        return Question(_marked(_joined(rest.strip())))
    if not no and not _IS_NOT.match(lowered) or _NO_CORRECTION.match(lowered):
        return Unclear()
    rest = rest[opinion.end():] if (opinion := _OPINION.match(_simple(rest))) else rest
    return Unclear() if _PERSONAL.match(_simple(rest)) else _correction(rest)


def doubt(transcript: Transcript, meaning: Meaning, cut: bool, min_confidence: float, longest_s: float) -> str:
    """Tells why a sentence is not enough to act on, to the person who said it; empty where it is enough.

    Args:
        transcript: What was recognised.
        meaning: What its words mean.
        cut: Whether the sentence was longer than `longest_s`.
        min_confidence: Less is not enough.
        longest_s: The longest utterance, in seconds.
    """
    if transcript.language:
        return "I did not understand that."
    if cut:
        return f"That was longer than {longest_s:g} seconds, and I heard only the beginning."
    if transcript.confidence is not None and transcript.confidence < min_confidence:
        return "I am not sure."
    if isinstance(meaning, Question) and _NAMELESS.search(meaning.text):
        return "I did not hear which region."
    return "That is no question." if isinstance(meaning, Unclear) else ""


def asks(text: str) -> bool:
    """Whether a sentence begins as a question or a request does, perhaps after words such as "and"."""
    begin = _LEADING.sub("", _simple(text))
    return bool(_INTERROGATIVE.match(begin) or _IMPERATIVE.match(begin))


def _marked(text: str) -> str:
    """A question with the mark that it would be typed with, where it was heard as a statement: "Is it red."."""
    return f"{text[:-1]}?" if text[-1] in ".," and _INTERROGATIVE.match(_LEADING.sub("", _simple(text))) else text


def _joined(text: str) -> str:
    """A question of one sentence, where a pause made two of it: "Which is red? Region 1 or region 2?"."""
    first, mark, rest = _BREAK.split(text, maxsplit=1) if _BREAK.search(text) else (text, "", "")
    if not rest or _BREAK.search(rest) or all(map(asks, (first, rest))):
        return text
    if rest[1:2].islower():
        rest = rest[0].lower() + rest[1:]
    return f"{first}, {rest}"


def repaired(text: str) -> str:
    """A sentence with the names of regions as they are written: "region too?" was "region 2?"."""
    text = _REGION.sub("region", " ".join(text.split()))
    text = _MISHEARD.sub(lambda found: f"{found[1]} {_SOUNDS[found[2].lower()]}", text)
    for heard, said in _RUN_TOGETHER:
        text = heard.sub(said, text)
    return _IF.sub("Is", text)


def without_wake_phrase(text: str, phrases: Sequence[str]) -> str | None:
    """What follows a wake phrase at a sentence's begin; None where there is none, empty where nothing follows.

    Args:
        text: As it was recognised.
        phrases: Such as "hey robot"; case and punctuation do not matter.
    """
    for phrase in phrases:
        words = re.findall(r"\w+", _simple(phrase))
        pattern = r"\W*" + r"\W+".join(map(re.escape, words)) + r"(?!\w)\W*"
        if words and (found := re.match(pattern, _simple(text))):
            return text[found.end():]
    return None


def _simple(text: str) -> str:
    """In lower case, with plain apostrophes; as long as the text."""
    lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in unicodedata.normalize("NFC", text))
    return lowered.replace("’", "'")


def _correction(text: str) -> Correction:
    text = text.strip().rstrip(".!?, ")
    found = _IS_NOT.match(_simple(text)) or _IS.match(_simple(text))
    if found is None:
        return Correction(right=False, instead=text)
    subject, instead = (text[slice(*found.span(name))].strip(" ,") for name in ("subject", "instead"))
    if subject.lower() in ("it", "that", "this"):
        subject = ""
    return Correction(right=False, subject=subject, instead=instead)
