"""Texts of annotation files made fit for a conversation."""

from __future__ import annotations

import re
from typing import Any

from training.data.record import REFERENCE

_MARKER = re.compile(r"<(?:bbox|point|im_patch|im_start|im_end|image)>|<\|[a-z_]+\|>|</?s>")
_NO_SPACE_BEFORE = re.compile(r"\s+([.,;:!?%)\]}]|n't\b|'(?:s|re|ve|ll|d|m)\b)")
_NO_SPACE_AFTER = re.compile(r"([(\[{])\s+")


def plain(text: Any, what: str) -> str:
    """``text`` stripped and with single spaces.

    Raises ValueError where it isn't a string, is empty, or holds a marker that only the prompt builder may write.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{what} is {text!r}, expected text")
    found = _MARKER.search(text) or REFERENCE.search(text)
    if found:
        raise ValueError(f"{what} holds the reserved marker {found.group()!r}: {text!r}")
    return " ".join(text.split())


def sentence(words: list[str]) -> str:
    """Tokens joined to a sentence: no space before closing punctuation and contractions."""
    return _NO_SPACE_AFTER.sub(r"\1", _NO_SPACE_BEFORE.sub(r"\1", " ".join(" ".join(words).split())))


def readable(class_name: str) -> str:
    """A detector's class name as people write it: "bow_(weapon)" → "bow (weapon)"."""
    return " ".join(class_name.replace("_", " ").split())
