"""PocketSphinx with a grammar of questions: small and fast, and deaf to all that is not in the grammar."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pocketsphinx

from .audio import Samples
from .recogniser import Recogniser, RecogniserError, RecogniserOptions, Transcript

# The grammar's score against that of any sequence of phonemes, for a frame of 10 ms: sentences of the grammar lay above
# the middle of the two, others below it, for Piper's voice en_US-joe.
_SURE, _FOREIGN = 22.0, 4.0
_MOST_THINGS = 60
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
_GRAMMAR = """#JSGF V1.0;
grammar questions;
public <sentence> = [ {wake} ] ( <question> | <correction> | <short> );
<question> = [ please ] ( <what> | <which> | <yes_no> | <tell> ) [ please ];
<what> = what is <region> | what is <side> <thing> | what is this | what is that | what do you see
       | ( what color is | where is | what is ) <thing> | and [ what about ] <thing>
       | how many <noun> are there;
<which> = which ( region | one | object ) is <adjective> <noun>
        | which ( region | one | object ) is ( <thing> | <adjective> | <side> <thing> );
<yes_no> = ( is <thing> | is it ) ( <side> <thing> | <adjective> | left or right of <thing> | <thing> )
         | is there <thing>;
<tell> = ( describe | tell me about | find | show me ) <thing>;
<correction> = ( no | wrong | that is wrong ) [ <region> is | it is | that is ] <thing>;
<short> = why | and why | that is wrong | that is right | stop | thank you | new conversation;
<side> = ( left of | right of | to the left of | to the right of | in front of | behind | next to | above | below );
<thing> = <region> | [ the | a | an ] ( <noun> | <adjective> <noun> );
<region> = ( region | number ) ( {numbers} );
<noun> = {nouns};
<adjective> = {adjectives};
"""
_ADJECTIVES = ("red green blue yellow white black brown gray orange purple pink small large big little tall round "
               "metal wooden plastic empty full").split()
_NOUNS = "object thing".split()
_FILLERS = frozenset("a an the of to in on at and or with it is region left right there front behind".split())


class PocketSphinx(Recogniser):
    """Questions in the words of a grammar, whose things are those of the scene; everything else is refused."""

    name = "pocketsphinx (grammar)"

    def __init__(self, options: RecogniserOptions) -> None:
        if options.language != "en":
            raise RecogniserError(f"recogniser.language is {options.language!r}; pocketsphinx knows en only")
        folder = Path(options.model or Path(pocketsphinx.get_model_path()) / "en-us").expanduser()
        files = {"hmm": folder / "en-us", "dict": folder / "cmudict-en-us.dict",
                 "allphone": folder / "en-us-phone.lm.bin"}
        for path in files.values():
            if not path.exists():
                raise RecogniserError(f"recogniser.model is {options.model!r}, but {path} is not there; expected a "
                                      "folder like the en-us of the pocketsphinx package")
        self._decoder = pocketsphinx.Decoder(hmm=str(files["hmm"]), dict=str(files["dict"]), lm=None, loglevel="FATAL")
        self._decoder.add_allphone_file("phonemes", str(files["allphone"]))
        self._words: tuple[str, ...] | None = None

    def transcribe(self, samples: Samples, words: Sequence[str] = ()) -> Transcript:
        """See `Recogniser`."""
        self._learn(tuple(words))
        audio = samples.tobytes()
        text, score = self._decode("questions", audio)
        if not text:
            return Transcript("", 0.0)
        _, reference = self._decode("phonemes", audio)
        frames = max(1, self._decoder.n_frames())
        return Transcript(text, _confidence((score - reference) / frames))

    def _decode(self, search: str, audio: bytes) -> tuple[str, float]:
        self._decoder.activate_search(search)
        self._decoder.start_utt()
        self._decoder.process_raw(audio, no_search=False, full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        if found is None or not found.hypstr or found.best_score <= 0:
            return "", -math.inf
        return found.hypstr, self._decoder.logmath.log(found.best_score)

    def _learn(self, words: tuple[str, ...]) -> None:
        if words == self._words:
            return
        nouns, adjectives = list(_NOUNS), list(_ADJECTIVES)
        for phrase in words[:_MOST_THINGS]:
            *before, noun = [word for word in re.findall(r"[a-z']+", phrase.lower()) if word not in _FILLERS] or [""]
            if noun in _NUMBERS.split():
                continue
            nouns += [noun] if self._decoder.lookup_word(noun) else []
            adjectives += [word for word in before if self._decoder.lookup_word(word)]
        self._decoder.add_jsgf_string("questions", _GRAMMAR.format(
            wake="hey robot | okay robot | robot", numbers=_NUMBERS.replace(" ", " | "),
            nouns=" | ".join(dict.fromkeys(nouns)), adjectives=" | ".join(dict.fromkeys(adjectives))))
        self._words = words


def _confidence(score: float) -> float:
    return min(1.0, max(0.0, (score - _FOREIGN) / (_SURE - _FOREIGN)))
