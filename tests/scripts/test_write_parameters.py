"""The page of all parameters is that of the code."""
from __future__ import annotations

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from write_parameters import PAGE, TEXT  # noqa: E402


def test_the_committed_page_is_what_is_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == TEXT, "run scripts/write_parameters.py"
