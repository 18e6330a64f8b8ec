"""The service `find_evidence`: the training records that a region resembles most, by the model's own embedding."""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from ros_gpt4roi_interfaces.msg import TrainingRecord
from ros_gpt4roi_interfaces.srv import FindEvidence
from std_msgs.msg import Header

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.messages import box_to_message
from ros_gpt4roi.runtime.evidence import EvidenceError, EvidenceIndex
from ros_gpt4roi.runtime.request import DescriptionRequest, Refused
from ros_gpt4roi.runtime.scheduler import Scheduler
from ros_gpt4roi.runtime.types import Frame, FrameDescriptions, Status

from .diagnostics import Problems
from .goals import OpenRequests, finished
from .process import shown
from .questions import drawn_regions

_MOST, _USUAL = 20, 5  # records of a response


@dataclass(frozen=True)
class EvidenceParameters(Configuration):
    """What descriptions and answers are explained by."""

    records: str = setting("", "Folder of training records with an index of the model that runs (python -m "
                               "training.data index), for the service find_evidence; empty: none.")


class Evidence:
    """The service. The worker gives the region's embedding; all else is done on a thread of its own.

    Args:
        node: Has the service.
        group: Reentrant, since the service holds its group while it awaits the worker.
        frame_of: Gives the frame that a header speaks of, None where there is none yet; raises Refused.
        scheduler: Gives embeddings.
        parameters: Where the records are.
        requests: What has no result yet.
        problems: Counts what was refused, for `/diagnostics`.
        is_active: Whether the node works.
    """

    def __init__(self, node: Node, group: CallbackGroup, frame_of: Callable[[Header], Frame | None],
                 scheduler: Scheduler, parameters: EvidenceParameters, requests: OpenRequests, problems: Problems,
                 is_active: Callable[[], bool]) -> None:
        self._node, self._frame_of, self._scheduler = node, frame_of, scheduler
        self._requests, self._problems, self._is_active = requests, problems, is_active
        self._folder = parameters.records
        self._index: EvidenceIndex | None = None
        self._thread = ThreadPoolExecutor(1, "evidence")
        self._service = node.create_service(FindEvidence, "find_evidence", self._on_request, callback_group=group)
        if self._folder:
            self._thread.submit(self._open)

    def destroy(self) -> None:
        """Takes the service back."""
        self._node.destroy_service(self._service)
        self._thread.shutdown(wait=False, cancel_futures=True)
        del self._scheduler, self._frame_of  # an executor may hold this for longer than a model may stay

    async def _on_request(self, request: FindEvidence.Request, response: FindEvidence.Response
                          ) -> FindEvidence.Response:
        with self._requests.one():
            try:
                frame, name = self._region(request)
                embedded = DescriptionRequest(frame=frame, embeddings_only=True)
                self._scheduler.submit(embedded)
                result = await finished(embedded.future, self._node.executor)
                found = self._thread.submit(self._find, result, name, request.most or _USUAL)
                records = await finished(found, self._node.executor)
            except Exception as error:  # a response's defaults say OK
                records = _refusal(error)
        if isinstance(records, Refused):
            response.status, response.error = int(records.status), str(records)
            self._problems.report(f"find_evidence {records.status.name}", response.error)
        else:
            response.records = records
        return response

    def _region(self, request: FindEvidence.Request) -> tuple[Frame, str]:
        """The frame of the region, and the region's id there. Raises Refused."""
        if not self._is_active():
            raise Refused(Status.FAILED, f"node {self._node.get_name()} is not active")
        if not self._folder:
            raise Refused(Status.INVALID, "this node has no training records: its parameter evidence.records is empty")
        if request.most > _MOST:
            raise Refused(Status.INVALID, f"most is {request.most}, expected at most {_MOST}")
        frame, region = self._frame_of(request.header), request.region
        if frame is None:
            raise Refused(Status.NO_FRAME, "no image has arrived yet")
        if region.bbox.size_x or region.bbox.size_y:
            drawn = drawn_regions(replace(frame, regions=()), [region])
            return replace(frame, regions=drawn), drawn[0].id
        if (found := next((own for own in frame.regions if own.id == region.id), None)) is None:
            raise Refused(Status.UNKNOWN_REGION, f"there is no region {region.id[:80]!r} in the frame, and no box is "
                                                 "given")
        return frame, found.id

    def _opened(self) -> EvidenceIndex:
        """On the thread: the index, read once."""
        self._index = self._index or EvidenceIndex(Path(self._folder).expanduser())
        return self._index

    def _open(self) -> None:
        """On the thread: what is wrong with the records is told before somebody asks for them."""
        try:
            self._opened()
        except EvidenceError as error:
            self._problems.report("evidence.records", str(error))

    def _find(self, result: FrameDescriptions, name: str, most: int) -> list[TrainingRecord] | Refused:
        """On the thread: reads the index where that has not been done, and the pictures."""
        try:
            return self._records(result, name, most)
        except Exception as error:  # nobody would resume the coroutine
            return _refusal(error)

    def _records(self, result: FrameDescriptions, name: str, most: int) -> list[TrainingRecord]:
        if result.status != Status.OK:
            raise Refused(result.status, result.error)
        if name not in result.embeddings:
            raise Refused(Status.INVALID, "; ".join(result.refused) or f"region {name!r} is beyond the model's limit")
        index = self._opened()
        if index.model != result.model_version:
            self._index = None  # a new one may have been made by the next time
            raise EvidenceError(f"the index of {index.folder} is of model {index.model}, but {result.model_version} "
                                f"runs; make it anew by: python -m training.data index {index.folder} --model NAME")
        return [TrainingRecord(
            file=region.file, region_id=region.region_id, bbox=box_to_message(region.box), name=region.name,
            description=region.description, source=region.source, distance=distance, jpeg=index.small_picture(region))
            for region, distance in index.nearest(result.embeddings[name], most)]


def _refusal(error: Exception) -> Refused:
    """What the asker is told of an error."""
    if isinstance(error, Refused):
        return error
    return Refused(Status.INVALID, str(error)) if isinstance(error, EvidenceError) else Refused(
        Status.FAILED, shown(error))
