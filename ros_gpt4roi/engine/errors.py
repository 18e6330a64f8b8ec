"""Errors of this room."""

from __future__ import annotations


class EngineError(RuntimeError):
    """An engine that cannot be built, loaded or trusted; the message says why and what to do."""
