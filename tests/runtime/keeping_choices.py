"""Runs a request and keeps what its tokens were chosen from, to compare that with transformers' own."""

from __future__ import annotations

from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.request import DescriptionRequest, Question, Sequence
from ros_gpt4roi.runtime.types import Status


def run_keeping_choices(pipeline: Pipeline, request: DescriptionRequest | Question) -> list[Sequence]:
    """Run a request to its end; returns its texts, each with the 8 likeliest tokens at every place."""
    pipeline.begin(request)
    for sequence in request.sequences:
        sequence.top_k = 8
    while request.result is None:
        pipeline.step()
    assert request.result.status is Status.OK
    return request.sequences
