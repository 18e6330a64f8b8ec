from __future__ import annotations

from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from ros_gpt4roi.runtime.region_text import RegionText
from ros_gpt4roi.runtime.text_stream import TextStream


def characters(ids: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def pieces(stream: TextStream, text: str) -> list[str]:
    ids = list(text.encode())
    got = [stream.push(ids[:end]) for end in range(1, len(ids) + 1)]
    return [piece for piece in [*got, stream.push(ids, final=True)] if piece]


@pytest.mark.parametrize("text", ["plain", "Käse für 3 €", "日本語 and 🫖🫖", "a  b\n\nc"])
def test_pieces_are_whole_characters_and_make_the_text(text: str) -> None:
    got = pieces(TextStream(characters), text)
    assert "".join(got) == text
    assert len(got) >= len(text.replace(" ", "").replace("\n", "")) - 1
    assert not any("\ufffd" in piece for piece in got)


def test_a_text_begins_without_blanks_in_its_pieces_and_as_a_whole() -> None:
    stream = TextStream(characters)
    got = pieces(stream, " \n large matte red box")
    assert got[0] == "l" and "".join(got) == stream.text == "large matte red box"


def test_bytes_that_are_no_character_do_not_hold_the_rest_back() -> None:
    stream = TextStream(characters)
    assert stream.push([0xF0] * 8) == "\ufffd" * 5
    assert stream.push([0xF0] * 8 + list(b"ok")) == "\ufffd" * 3 + "ok"


def test_a_stop_text_ends_the_text_and_no_part_of_it_is_given() -> None:
    stream = TextStream(characters, ["\n###", "END"])
    got = pieces(stream, "a # b\n## c EN\n### Human: x")
    assert "".join(got) == "a # b\n## c EN" and stream.stopped
    assert not any("E" in piece and "EN" not in piece for piece in got)


def test_a_stop_text_that_never_comes_costs_nothing() -> None:
    stream = TextStream(characters, ["\n###"])
    assert "".join(pieces(stream, "a\n##")) == "a\n##" and not stream.stopped


def test_region_names_are_never_cut() -> None:
    regions = RegionText([f"track-{i}" for i in range(1, 13)])
    stream = TextStream(characters, render=regions.to_user, hold=RegionText.unfinished)
    got = pieces(stream, "region1 is left of region12, a regional mug, region")
    assert "".join(got) == "region track-1 is left of region track-12, a regional mug, region"


def test_real_tokens_stream_as_they_decode(tokenizer: PreTrainedTokenizerFast) -> None:
    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text = "A small red mug, left of region2 — naïve 🫖"
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(decode)
    assert "".join([stream.push(ids[:end]) for end in range(1, len(ids) + 1)] + [stream.push(ids, True)]) == text
