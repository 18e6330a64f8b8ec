"""What is said of a server in a configuration."""
from __future__ import annotations

import os
from dataclasses import dataclass

from ...configuration import ConfigError, Configuration, setting

KEY_VARIABLE = "ROS_GPT4ROI_REMOTE_KEY"  # of its own: a key for another service must not be sent to a robot's server


@dataclass(frozen=True)
class ServerOptions(Configuration):
    """How the server of `pipeline.remote` is used."""

    model: str = setting("", "Name of the model on the server; empty: the only one that it lists.")
    picture: str = setting("jpeg", "How a picture is sent; png changes no pixel and is some five times as long.",
                           choices=("jpeg", "png"))
    jpeg_quality: int = setting(90, "Quality of a JPEG.", at_least=1, at_most=100)
    share_prefix: bool = setting(True, "The text of one region goes ahead until its first word, so that the others "
                                       "find the picture in the server's prefix cache.")
    connect_timeout_s: float = setting(3.0, "Longest that a connection may take.", more_than=0, unit="seconds")
    stall_timeout_s: float = setting(15.0, "Longest that the server may send nothing in the middle of a text, or "
                                           "before its first word.", more_than=0, unit="seconds")
    busy_timeout_s: float = setting(10.0, "Longest that a text waits for a server which says that it is busy (429).",
                                    at_least=0, unit="seconds")
    retry_s: float = setting(2.0, "A server that is gone is looked for so often.", at_least=0.1, unit="seconds")


def check_url(url: str) -> str:
    """The base address of a server, without a slash at its end.

    Args:
        url: Such as http://192.168.0.7:8000/v1.

    Raises:
        ConfigError: It is none, or carries a name, a key or a query.
    """
    import httpx2  # only where there is a server

    url = url.strip()
    if "@" in url.partition("//")[2].partition("/")[0] or "?" in url or "#" in url:  # first: errors show the address
        raise ConfigError("remote has a user, a query or a fragment in it, expected none: a key belongs into the "
                          f"environment variable {KEY_VARIABLE}")
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(f"remote is {url!r}, expected an address such as http://host:8000/v1: {error}") from error
    port = 80 if parsed.port is None else parsed.port
    if parsed.scheme not in ("http", "https") or not parsed.host or not 0 < port < 65536:
        raise ConfigError(f"remote is {url!r}, expected an address such as http://host:8000/v1")
    return str(parsed).rstrip("/")


def key_of_environment() -> str:
    """The key that goes to a server; empty where there is none.

    Raises:
        ConfigError: No header of a request can hold it.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()  # a file that it was read from ends with a line break
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key of {KEY_VARIABLE} has characters that no key has, expected printable ASCII")
    return key
