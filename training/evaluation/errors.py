"""The error of every measurement."""

from __future__ import annotations


class EvaluationError(RuntimeError):
    """A measurement that cannot be done; the message names the input and what was expected."""
