from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("starlette", reason="the web console's packages are not installed")

from starlette.datastructures import Headers  # noqa: E402

from ros_gpt4roi.console.access import Access, is_loopback  # noqa: E402


def refusal(host: str, origin: str | None = None, names: tuple[str, ...] = (), reads: bool = False) -> str:
    headers = {"host": host} | ({"origin": origin} if origin is not None else {})
    return Access("", names).refusal(Headers(headers), reads)


@pytest.mark.parametrize("host", ["127.0.0.1:8450", "localhost:1", "LOCALHOST", "[::1]:8450", "192.168.1.5:8450"])
def test_own_addresses_and_localhost_are_served(host: str) -> None:
    assert refusal(host, f"http://{host}") == ""
    assert refusal(host, reads=True) == ""


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8450", "", "127.0.0.1.evil.example"])
def test_a_name_that_is_not_the_consoles_is_refused(host: str) -> None:
    assert repr(host) in refusal(host, f"http://{host}")
    assert refusal(host, reads=True)


def test_a_name_may_be_allowed() -> None:
    assert "--allow-host robot.lan" in refusal("robot.lan:8450", "http://robot.lan:8450")
    assert refusal("robot.lan:8450", "http://robot.lan:8450", ("Robot.lan",)) == ""


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:9999", "http://127.0.0.1"])
def test_only_the_consoles_own_page_may_open_the_websocket_or_change_something(origin: str | None) -> None:
    assert "origin" in refusal("127.0.0.1:8450", origin)


def test_only_the_right_token_is_admitted() -> None:
    access = Access("secret")
    assert access.needs_token and asyncio.run(access.admits("secret"))
    for wrong in ("", "secre", "secret ", "sécret", "x" * 10_000):
        assert not asyncio.run(Access("secret").admits(wrong))
    assert asyncio.run(Access("").admits("anything"))


@pytest.mark.parametrize(("host", "expected"), [
    ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
    ("192.168.1.5", False), ("robot", False)])
def test_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
