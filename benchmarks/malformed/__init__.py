"""Malformed messages to every input of the perception node; run it as `benchmarks.malformed_messages`."""

from . import boxes, images, requests, serialised  # noqa: F401 - they enter their kinds into the table
