"""Text from outside in logs and terminals."""
from __future__ import annotations

import logging

import pytest

from ros_gpt4roi.printable import PrintableHandler, printable


@pytest.mark.parametrize("text, expected", [
    ("region 2是什么？ é", "region 2是什么？ é"), ("a\nb\r\tc", "a\\nb\\r\\tc"),
    ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
    ("\x9b2J\x00", "\\x9b2J\\x00"), ("left\u202eright\u2028\u200b", "left\\u202eright\\u2028\\u200b"),
    ("\ud800", "\\ud800"), ("", ""),
])
def test_what_is_not_printable_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected and expected.isprintable()


def test_long_texts_are_shortened_and_chosen_characters_kept() -> None:
    assert printable("x" * 1000, 5) == "xxxxx ... (1000 characters)"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_records_of_python_s_logging_are_made_printable() -> None:
    records: list[tuple[int, str]] = []
    logger = logging.Logger("test")
    logger.addHandler(PrintableHandler(lambda level, text: records.append((level, text))))
    try:
        raise KeyError("id\n[ERROR] forged\x1b[2J")
    except KeyError as error:
        logger.exception("failed for %s", "cup\n[INFO] forged", exc_info=error)
    try:
        raise ValueError("one\n[ERROR] [2.0] forged")
    except ValueError as error:
        logger.exception("failed", exc_info=error)
    assert [level for level, _ in records] == [logging.ERROR] * 2
    assert records[0][1].splitlines()[0] == "failed for cup\\n[INFO] forged"
    for line in records[0][1].splitlines()[1:] + records[1][1].splitlines()[1:]:
        assert line.startswith("    ") and line.isprintable()


def test_the_traceback_of_one_text_is_not_repeated_at_once() -> None:
    records: list[str] = []
    logger = logging.Logger("test")
    logger.addHandler(PrintableHandler(lambda level, text: records.append(text)))
    for text in ("a text failed", "a text failed", "another failed"):
        logger.error(text, exc_info=ValueError("broken"))
    assert [len(text.splitlines()) > 1 for text in records] == [True, False, True]
