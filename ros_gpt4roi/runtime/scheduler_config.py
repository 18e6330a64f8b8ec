"""Limits of what the scheduler takes: parameters of the perception node, too."""
from __future__ import annotations

from dataclasses import dataclass

from ..configuration import Configuration, setting


@dataclass(frozen=True)
class SchedulerConfig(Configuration):
    """Limits of what is asked at the same time."""

    queue_length: int = setting(16, "Questions, and likewise pictures of describe_regions, that may wait; more are "
                                    "OVERLOADED.", at_least=1)
    answer_timeout_s: float = setting(30.0, "Time limit of an answer, from when the question came.", more_than=0,
                                      unit="seconds")
    description_timeout_s: float = setting(30.0, "Time limit of a frame's descriptions.", more_than=0, unit="seconds")
    conversations: int = setting(32, "Conversations that are remembered; for a new one, the one unused for longest is "
                                     "closed.", at_least=1)
