"""Another model or adapter for a node that runs: loaded and compared beside what serves, swapped in, and taken back."""
from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_gpt4roi_interfaces.srv import LoadModel
from std_srvs.srv import Trigger

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.model_card import measured_loss
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.adapter_folder import Adapter, is_adapter
from ros_gpt4roi.runtime.device import free_memory, weights_bytes
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.probes import Probe, count_right, read_probes
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.scheduler import Scheduler
from ros_gpt4roi.runtime.types import Answer, Frame, Region, Status

from .diagnostics import Problems
from .goals import OpenRequests, finished
from .process import shown

_PATIENCE_S = 60.0  # beyond the time limits of requests
_MIB = 1 << 20
_ADAPTER_OF = "an adapter is for"
ADAPTER = "pipeline.adapter"  # the parameter that says which adapter serves
# A question about a grey picture, which every model has some answer to.
_TRIAL = Probe(Frame(np.full((240, 320, 3), 127, np.uint8), (Region("1", (40.0, 40.0, 200.0, 200.0)),), 0, ""),
               "What is region 1?", ())


@dataclass(frozen=True)
class SwapParameters(Configuration):
    """How `load_model` decides whether a model may take the place of the one that runs."""

    max_loss: float = setting(0.02, "Share of the probes that the new model may answer rightly less than the one that "
                                    "runs; with more, it is refused.", at_least=0, at_most=1)


class ModelSwap:
    """The services `load_model` and `rollback`.

    Args:
        node: Has the services.
        group: Reentrant, since `load_model` holds its group while it awaits the loading.
        scheduler: Serves with the model that runs.
        folder: The model that runs; None where a server has it.
        device: Where models run.
        open_model: Loads and warms a model from its folder, on any thread.
        complete: Gives a model that is to serve, and its folder, what takes over from it.
        parameters: What decides.
        requests: What has no result yet.
        problems: Counts what was refused, for `/diagnostics`.
        is_active: Whether the node works.
    """

    def __init__(self, node: Node, group: CallbackGroup, scheduler: Scheduler, folder: Path | None,
                 device: torch.device, open_model: Callable[[Path], Pipeline],
                 complete: Callable[[Pipeline, Path], Pipeline], parameters: SwapParameters, requests: OpenRequests,
                 problems: Problems, is_active: Callable[[], bool]) -> None:
        self._node, self._scheduler, self._open, self._complete = node, scheduler, open_model, complete
        self._parameters, self._requests, self._problems, self._is_active = parameters, requests, problems, is_active
        self._folder, self._device = folder, device
        self._take_back: Callable[[], None] | None = None  # for `rollback`; holds the model before, if that is another
        self._brought: list[Adapter] = []  # by `load_model`
        self._shown: tuple[str, str] | None = None  # what the parameter was made to say, and what it said before
        self._busy = threading.Lock()  # one change at a time
        self._unused = False  # a model is left behind by a change
        self._services = [
            node.create_service(LoadModel, "load_model", self._on_load, callback_group=group),
            node.create_service(Trigger, "rollback", self._on_rollback, callback_group=group)]

    def destroy(self) -> None:
        """Takes the services back, and gives the model before back."""
        for service in self._services:
            self._node.destroy_service(service)
        self._take_back = None
        self._brought.clear()
        # What was brought goes: the next configure has what it would have had without.
        if self._shown is not None and self._node.get_parameter(ADAPTER).value == self._shown[0]:
            self._node.set_parameters([Parameter(ADAPTER, value=self._shown[1])])
        del self._scheduler, self._open, self._complete  # an executor may hold this for longer than a model may stay

    async def _on_load(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        response.model_version = self._scheduler.model_version
        with self._requests.one():
            return await finished(self._in_background(self._load, request, response), self._node.executor)

    async def _on_rollback(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._requests.one():
            return await finished(self._in_background(self._roll_back, request, response), self._node.executor)

    def _in_background(self, work: Callable, request: object, response: LoadModel.Response | Trigger.Response
                       ) -> futures.Future:
        """Runs it on a thread of its own; gives the response, whatever happens."""
        done: futures.Future = futures.Future()

        def run() -> None:
            began = False
            try:
                if not self._busy.acquire(blocking=False):
                    raise _Refused("another change of the model is under way")
                try:
                    self._check_active()
                    began = self._unused = True
                    work(request, response)
                except _Refused:
                    self._check_active()  # still: a scheduler that was stopped meanwhile answers nothing
                    raise
                finally:
                    self._busy.release()
            except Exception as error:  # a bad folder, no memory: the model that runs goes on
                response.success = False
                response.message = str(error) if isinstance(error, _Refused) else shown(error)
                self._problems.report("model not changed", response.message)
            # A model that is not kept refers to itself, and the next must find its memory. Collecting holds up all
            # threads: where nothing is left, the first frame of the new model need not wait for it.
            if began and self._unused:
                gc.collect()
                if torch.cuda.is_initialized():
                    torch.cuda.empty_cache()
            done.set_result(response)

        threading.Thread(target=run, name="model-swap", daemon=True).start()
        return done

    def _check_active(self) -> None:
        if not self._is_active():
            raise _Refused(f"node {self._node.get_name()} is not active")

    def _check_not_replaced(self, what: str) -> None:
        """Refuses what has to do with the model that runs while that does not serve."""
        if trouble := self._scheduler.pipeline.trouble:
            raise _Refused(f"{what} the model that does not serve now: {trouble}")

    def _load(self, request: LoadModel.Request, response: LoadModel.Response) -> None:
        scheduler = self._scheduler
        folder = find_model(request.model)
        if (loss := measured_loss(folder)) > self._parameters.max_loss:
            raise _Refused(f"{folder} is worse by its card: of what was known before, {loss:.3f} less is right; "
                           f"swap.max_loss is {self._parameters.max_loss}")
        running = scheduler.pipeline.adapters.serving
        known = dict.fromkeys([self._folder, *([running.folder] if running is not None else ()), folder])
        probes = [probe for place in known if place is not None for probe in read_probes(place)]
        response.probes = len(probes)
        serving = scheduler.model_version
        if probes:
            self._check_not_replaced(f"{folder} would be compared with")
        response.right_running = count_right(probes, lambda probe: _ask(scheduler, probe, serving))
        if is_adapter(folder):
            adapter = scheduler.pipeline.adapters.read(folder)
            version, take = scheduler.pipeline.version_of(adapter), functools.partial(self._bring, adapter)
            self._check_not_replaced(_ADAPTER_OF)
            _ask(scheduler, _TRIAL, version, adapter)  # as a model is warmed: there may be no probes
            response.right_new = count_right(probes, lambda probe: _ask(scheduler, probe, version, adapter))
        else:
            self._make_room(folder, keep=request.dry_run)
            pipeline = self._open(folder)
            version, take = pipeline.version, functools.partial(self._take, folder, pipeline)
            response.right_new = count_right(probes, lambda probe: self._ask_new(pipeline, probe))
            pipeline.reset()
        self._check_active()  # still
        share = f"{response.right_new} of {response.probes} probes right, {response.right_running} by the one that runs"
        if response.right_running - response.right_new > self._parameters.max_loss * response.probes:
            raise _Refused(f"{version} is worse: {share}; swap.max_loss is {self._parameters.max_loss}")
        response.success = True
        if not probes:
            share = "neither model has probes to compare them by"
        if request.dry_run:
            response.message = f"{version} would be taken: {share}"
            return
        before = self._take_back
        take()
        self._unused = before is not None
        response.model_version = version
        response.message = f"{version} runs: {share}"

    def _ask_new(self, pipeline: Pipeline, probe: Probe) -> Answer:
        self._check_active()  # where the node ends, nobody waits for hundreds of answers
        return pipeline.ask(Conversation("", probe.frame), Question(probe.text))

    def _make_room(self, folder: Path, keep: bool) -> None:
        """Refuses a model whose weights take more memory than there is. The one before goes first, unless kept."""
        needed = weights_bytes(folder)
        if needed > free_memory(self._device) and self._take_back is not None and not keep:
            self._take_back = None
            gc.collect()
        if needed > (free := free_memory(self._device)):
            raise _Refused(f"the weights of {folder} take {needed // _MIB} MiB, and {free // _MIB} MiB are free beside "
                           "the model that runs; to change it without both in memory, deactivate and clean up the "
                           f"node, set its parameter model to {folder}, then configure and activate it")

    def _roll_back(self, request: Trigger.Request, response: Trigger.Response) -> None:
        if self._take_back is None:
            raise _Refused("there is no model before the one that runs")
        self._take_back()
        self._unused = False
        response.success, response.message = True, f"{self._scheduler.model_version} runs again"

    def _take(self, folder: Path, pipeline: Pipeline) -> None:
        self._swap(folder, self._complete(pipeline, folder))

    def _swap(self, folder: Path | None, pipeline: Pipeline) -> None:
        limits = self._scheduler.config  # by these, all that was begun has ended
        wait_s = limits.answer_timeout_s + limits.description_timeout_s + _PATIENCE_S
        replaced = self._scheduler.replace(pipeline)
        try:
            old = replaced.result(wait_s)
        except futures.TimeoutError:
            if replaced.cancel():  # what is refused must not come later
                raise _Refused(f"what the model that runs had begun was not done after {wait_s:.0f} s") from None
            old = replaced.result()
        self._take_back, self._folder = functools.partial(self._swap, self._folder, old), folder
        self._show(pipeline.adapters.serving)
        self._node.get_logger().info(f"model {pipeline.version} runs in place of {old.version}")

    def _bring(self, adapter: Adapter) -> None:
        self._check_not_replaced(_ADAPTER_OF)
        self._brought.append(adapter)
        self._use(adapter)

    def _use(self, adapter: Adapter | None) -> None:
        """Lets an adapter serve what begins from now on; None: the bare model."""
        adapters = self._scheduler.pipeline.adapters
        before = adapters.serving
        if adapter is not None:
            adapters.put(adapter)
        adapters.serving = adapter
        self._show(adapter)
        for unused in [brought for brought in self._brought if brought not in (adapter, before)]:
            self._brought.remove(unused)
            adapters.drop(unused)
        self._take_back = functools.partial(self._use, before)

    def _show(self, adapter: Adapter | None) -> None:
        """Lets the parameter say which adapter serves."""
        said = self._node.get_parameter(ADAPTER).value
        configured = said if self._shown is None or self._shown[0] != said else self._shown[1]
        self._shown = (adapter.name if adapter is not None else "", configured)
        self._node.set_parameters([Parameter(ADAPTER, value=self._shown[0])])


class _Refused(Exception):
    """A change of the model that is not made; the message says why."""


def _ask(scheduler: Scheduler, probe: Probe, version: str, adapter: Adapter | None = None) -> Answer:
    """Asks the model that runs, behind the questions of people; with another adapter than serves, if one is given.

    Raises:
        _Refused: It gives no answer, or another version than that does, such as what takes over from it.
    """
    question = Question(probe.text, frame=probe.frame, for_watch=True, adapter=adapter)
    scheduler.submit(question)
    answer = question.future.result(scheduler.config.answer_timeout_s + _PATIENCE_S)
    if answer.status in (Status.TIMEOUT, Status.CANCELED, Status.OVERLOADED, Status.FAILED):
        who = "the model that runs" if adapter is None else adapter.version
        raise _Refused(f"{who} could not be asked a probe: {answer.status.name}, {answer.error}")
    if answer.model_version not in ("", version):  # what was no question for it has no version
        raise _Refused(f"{version} could not be asked a probe: {answer.model_version} answered in its place; "
                       f"{scheduler.pipeline.trouble or 'try again'}")
    return answer
