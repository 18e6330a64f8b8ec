"""The perception node: images and boxes in, descriptions and answers out.

A lifecycle node. `configure` loads and warms the model and opens the interfaces; `activate` begins to listen. No
callback computes: it converts, hands over to the scheduler's worker and returns; results are published by the worker.
"""
from __future__ import annotations

import functools
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from ros_gpt4roi.configuration import ConfigError, Configuration, setting
from ros_gpt4roi.messages import seconds_text
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.printable import printable
from ros_gpt4roi.runtime.device import used_memory
from ros_gpt4roi.runtime.fallback import FallbackOptions
from ros_gpt4roi.runtime.pipeline import PipelineConfig
from ros_gpt4roi.runtime.scheduler import Scheduler, SchedulerConfig
from ros_gpt4roi.runtime.threads import fit_threads, use_all_threads
from ros_gpt4roi.runtime.types import Frame, FrameDescriptions, Status

from .depth import DepthParameters, DepthSource
from .diagnostics import DiagnosticsPublisher, Problems, Report
from .evidence import Evidence, EvidenceParameters
from .frame_source import DetectionParameters, FrameSource, ImageParameters, SyncParameters
from .model_opening import ModelOpener
from .model_swap import ADAPTER, ModelSwap, SwapParameters
from .outputs import Outputs
from .parameters import TopicQos, declare, names, read
from .process import run_node, shown
from .questions import Questions
from .topics import Input
from .watches import WatchParameters
from .yolo import yolo_type

_STOP_LIMIT_S = 10.0  # for the worker's step, and then for the results to be sent
_END_LIMIT_S = 2.0  # for each of the two where the process ends
_PATIENCE_S = 5.0  # beyond the time that a frame's descriptions may take
_USUAL_REGIONS = 8  # of a frame, on which threads are measured


@dataclass(frozen=True)
class QosParameters(Configuration):
    """How inputs are subscribed and images published."""

    image: TopicQos = TopicQos()
    detections: TopicQos = TopicQos()
    depth: TopicQos = TopicQos()
    annotated_image: TopicQos = TopicQos("reliable")


@dataclass(frozen=True)
class ConversationParameters(Configuration):
    """How texts on `query_text` become conversations."""

    follow_up_s: float = setting(30.0, "A text goes on with the conversation of the text before it, and its frame, "
                                       "until so long after the first of its questions; 0: each opens its own.",
                                 at_least=0, unit="seconds")


@dataclass(frozen=True)
class PerceptionParameters(Configuration):
    """Parameters of the perception node. They take effect at `configure`; `pipeline.adapter` at any time."""

    model: str = setting("tabletop", "Checkpoint folder, or the name of a model that is installed with the package.")
    fallback_model: str = setting("", "A second, smaller model, like `model`: it serves while the first cannot. Empty: "
                                      "none.")
    fallback: FallbackOptions = FallbackOptions()
    autostart: bool = setting(True, "Configure and activate at the start, without a lifecycle manager.")
    transport: str = setting("raw", "raw: Image on `image`; compressed: CompressedImage on `image/compressed`.",
                             choices=("raw", "compressed"))
    image: ImageParameters = ImageParameters()
    detections: DetectionParameters = DetectionParameters()
    sync: SyncParameters = SyncParameters()
    depth: DepthParameters = DepthParameters()
    qos: QosParameters = QosParameters()
    conversation: ConversationParameters = ConversationParameters()
    watch: WatchParameters = WatchParameters()
    swap: SwapParameters = SwapParameters()
    evidence: EvidenceParameters = EvidenceParameters()
    pipeline: PipelineConfig = PipelineConfig()
    scheduler: SchedulerConfig = SchedulerConfig()


def _reports_errors(transition: Callable[[Perception, LifecycleState], TransitionCallbackReturn]) -> Callable:
    """A transition that says what it raised: rclpy goes to its error state in silence."""
    @functools.wraps(transition)
    def reporting(node: Perception, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.fail(transition.__name__.removeprefix("on_"), error)
            return TransitionCallbackReturn.ERROR
    return reporting


class Perception(LifecycleNode):
    """See the module; docs/ros_interface.md lists topics, services and actions."""

    def __init__(self) -> None:
        super().__init__("perception")
        self._state = "unconfigured"
        self._failure = ""  # why the last configuration failed
        self._placement: dict[str, str] = {}  # what runs where, and why
        self.problems = Problems(self.get_logger().warning)
        if unknown := declare(self, PerceptionParameters()):
            self.problems.report("unknown parameter", "; ".join(unknown))
        self._reported = 0
        self._settings: PerceptionParameters | None = None
        self._scheduler: Scheduler | None = None
        self._frames: FrameSource | None = None
        self._questions: Questions | None = None
        self._depth: DepthSource | None = None
        self._outputs: Outputs | None = None
        self._swap: ModelSwap | None = None
        self._evidence: Evidence | None = None
        self._inputs: list[Input] = []
        self._stage_seconds: dict[str, float] = {}
        self._last_result_s = 0.0  # of a frame, on the steady clock
        self._diagnostics = DiagnosticsPublisher(self, "pipeline", self._report)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.add_post_set_parameters_callback(self._after_set_parameters)

    def autostart(self) -> None:
        """Configures and activates, if the parameter says so; a failure leaves the node unconfigured."""
        if self.get_parameter("autostart").value:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()

    def close(self) -> None:
        """Stops the worker; what is open is answered. A worker in a long step is not waited for."""
        self._release(_END_LIMIT_S)

    def fail(self, transition: str, error: Exception) -> None:
        """Logs why a transition failed, and shows it in the diagnostics until the next `configure`."""
        self._failure = f"{type(error).__name__}: {error}"
        self.get_logger().error(f"{transition} failed: {printable(self._failure, 2000)}")

    # Lifecycle

    @_reports_errors
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads and warms the model, and opens the interfaces."""
        self._failure, self._placement = "", {}
        try:
            self._settings = parameters = read(self, PerceptionParameters)
            self._detection_type = yolo_type() if parameters.detections.type == "yolo_msgs" else Detection2DArray
            remote = parameters.pipeline.remote
            models = ModelOpener(parameters.pipeline, parameters.fallback_model, parameters.fallback, self._tell,
                                 self.problems)
            folder = None if remote else find_model(parameters.model)
            with self._diagnostics.during(f"connecting to {remote}" if folder is None else f"loading {folder}"):
                use_all_threads()  # also for an engine that runs on the CPU
                pipeline = models.open(folder)
                self._placement = pipeline.placement()
                self.get_logger().info("; ".join(f"{what} {where}" for what, where in self._placement.items()))
                if pipeline.device.advice:
                    self.problems.report("GPU not used", f"{pipeline.device.reason}; {pipeline.device.advice}")
                if pipeline.device.name == "cpu" and (parameters.fallback_model or not remote):
                    self._diagnostics.progress = "measuring how many threads help"
                    threads = fit_threads(lambda: pipeline.rehearse(_USUAL_REGIONS))
                    self.get_logger().info(f"PyTorch works with {threads} threads")
                    pipeline.reset()
            scheduler = Scheduler(pipeline, parameters.scheduler, self._on_descriptions)
        except Exception as error:  # a bad file, a missing driver, no memory: all are reasons not to start
            self.fail("configure", error)
            return TransitionCallbackReturn.FAILURE
        self._depth = DepthSource(parameters.depth, parameters.sync.buffer_s, parameters.sync.buffer_mib * 2**20,
                                  self.problems)
        self._outputs = Outputs(self, self._depth, parameters.qos.annotated_image.profile(), self.problems)
        self._frames = FrameSource(parameters.sync, parameters.image, parameters.detections, self.problems,
                                   self._on_frame)
        self._questions = Questions(self, self._frames, self._depth, scheduler, self.problems,
                                    lambda: self._state == "active", parameters.conversation.follow_up_s,
                                    parameters.watch)
        self._swap = ModelSwap(self, self._questions.group, scheduler, folder,
                               torch.device(pipeline.device.name), models.open_bare, models.complete, parameters.swap,
                               self._questions.requests, self.problems, lambda: self._state == "active")
        self._evidence = Evidence(self, self._questions.group, self._questions.frame, scheduler, parameters.evidence,
                                  self._questions.requests, self.problems, lambda: self._state == "active")
        self._scheduler = scheduler
        self._state = "inactive"
        self.get_logger().info(f"model {printable(folder.name if folder else remote)} is ready")
        return TransitionCallbackReturn.SUCCESS

    @_reports_errors
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begins to listen and to work."""
        assert self._scheduler is not None and self._settings is not None  # configured
        assert self._frames is not None and self._depth is not None
        self._scheduler.start()
        qos, compressed = self._settings.qos, self._settings.transport == "compressed"
        self._inputs = [
            Input(self, CompressedImage if compressed else Image, "image/compressed" if compressed else "image",
                  self._frames.on_image, qos.image.profile(), self.problems),
            Input(self, self._detection_type, "detections", self._frames.on_detections, qos.detections.profile(),
                  self.problems, raw=True),
            Input(self, Image, "depth/image", self._depth.on_depth, qos.depth.profile(), self.problems, optional=True),
            Input(self, CameraInfo, "camera_info", self._depth.on_camera_info, qos.depth.profile(), self.problems,
                  optional=True)]
        self._last_result_s = time.monotonic()
        self._state = "active"
        return super().on_activate(state)

    @_reports_errors
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops listening, and answers what is open."""
        self._state = "inactive"
        self._stop_work()
        return super().on_deactivate(state)

    @_reports_errors
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Gives back what `on_configure` took."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @_reports_errors
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops listening, and answers what is open, for good."""
        # The interfaces stay: goals that this cancels have their results still to be sent by the executor.
        self._state = "finalized"
        self._stop_work()
        return TransitionCallbackReturn.SUCCESS

    @_reports_errors
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Cleans up after a transition that failed."""
        self._release()
        return TransitionCallbackReturn.SUCCESS  # back to unconfigured: can be configured again

    def _stop_work(self, limit_s: float = _STOP_LIMIT_S) -> None:
        """Listens no longer, answers what is open CANCELED, and forgets the frames."""
        for source in self._inputs:
            source.destroy()
        self._inputs = []
        if self._scheduler is not None:
            self._scheduler.stop(limit_s)
        if self._depth is not None:
            self._depth.clear()
        if self._frames is not None:
            self._frames.clear()  # after the next activation, a question would speak of a scene that is long past
        if self._questions is not None:
            self._questions.stop()

    def _release(self, limit_s: float = _STOP_LIMIT_S) -> None:
        """Gives back what `configure` took. A second call does nothing."""
        self._state = "unconfigured"
        self._stop_work(limit_s)  # first: the worker publishes
        if self._scheduler is None or self._questions is None or self._outputs is None or self._swap is None \
                or self._evidence is None:
            return
        self._questions.requests.drain(limit_s)
        self._swap.destroy()
        self._scheduler.pipeline.close()
        self._evidence.destroy()
        self._questions.destroy()
        self._outputs.destroy()
        self._scheduler = self._frames = self._depth = self._questions = self._outputs = self._swap = None
        self._evidence = None
        self._stage_seconds = {}
        gc.collect()  # the next model must find the memory of this one
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        if self._state == "unconfigured" or self._scheduler is None:
            return SetParametersResult(successful=True)
        own = names(PerceptionParameters()) - {ADAPTER}
        if refused := ", ".join(parameter.name for parameter in parameters if parameter.name in own):
            return SetParametersResult(successful=False, reason=f"{refused}: taken at configure, but the node is "
                                                                f"{self._state}; deactivate and clean up first")
        try:
            for parameter in parameters:
                if parameter.name == ADAPTER:
                    self._scheduler.pipeline.adapters.find(parameter.value)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=f"parameter pipeline.{error}")
        return SetParametersResult(successful=True)  # the others, such as use_sim_time, are rclpy's

    def _after_set_parameters(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == ADAPTER and self._state != "unconfigured" and self._scheduler is not None:
                adapters = self._scheduler.pipeline.adapters
                adapters.serving = adapters.find(parameter.value)
                self.get_logger().info(f"{self._scheduler.model_version} serves what begins from now on")

    def _on_frame(self, frame: Frame) -> None:
        """A frame with its regions, newer than the last."""
        assert self._questions is not None and self._scheduler is not None  # configured
        self._questions.watches.on_frame(frame)  # they go before descriptions
        self._scheduler.submit_frame(frame)

    # Results; on the worker's thread

    def _on_descriptions(self, result: FrameDescriptions) -> None:
        try:
            self._publish(result)
        except Exception as error:  # the future, whose callback this is, would keep it to itself
            self.problems.report("descriptions not published", shown(error))

    def _publish(self, result: FrameDescriptions) -> None:
        self._last_result_s = time.monotonic()
        if result.status == Status.CANCELED:  # deactivated or closed in the middle of it
            return
        if result.status != Status.OK:
            self.problems.report(f"frame {result.status.name}", result.error)
            return
        for region in result.omitted:
            self.problems.report("region over the limit", f"region {region.id!r} of the frame of "
                                                         f"{seconds_text(result.frame.stamp_ns)} s")
        for refusal in result.refused:
            self.problems.report("box refused", refusal)
        self._stage_seconds = result.timings
        assert self._outputs is not None and self._frames is not None  # configured, until the worker has stopped
        self._frames.keep(result.frame)
        self._outputs.publish(result)

    # Diagnostics

    def _tell(self, progress: str) -> None:
        self._diagnostics.progress = progress

    def _report(self) -> Report:
        values: dict[str, object] = {"state": self._state, "model": self.get_parameter("model").value}
        if self._depth is not None:
            values |= self._depth.statistics()
        if self._scheduler is not None and self._frames is not None and self._questions is not None:
            values |= self._frames.statistics() | self._questions.statistics()
            values |= self._scheduler.statistics() | {"model version": self._scheduler.model_version}
            values |= {f"stage {stage} [ms]": seconds * 1000 for stage, seconds in self._stage_seconds.items()}
        values |= {**self._placement, **used_memory()}
        total = self.problems.total()
        values |= self.problems.values()
        level, text = DiagnosticStatus.OK, self._diagnostics.progress or self._state
        if self._failure:
            level, text = DiagnosticStatus.ERROR, self._failure
        elif warnings := self._warnings(total):
            level, text = DiagnosticStatus.WARN, "; ".join([self._state, *warnings])
        self._reported = total
        return Report(level, text, str(values["model"]), values)

    def _warnings(self, total: int) -> list[str]:
        own = (self.get_name(), self.get_namespace())
        found = [stale for source in self._inputs if (stale := source.stale())]
        if self._scheduler is not None and (trouble := self._scheduler.pipeline.trouble):
            found.insert(0, trouble)
        if self._state == "active" and self._settings is not None and not found:
            silent_s = time.monotonic() - self._last_result_s
            if silent_s > self._settings.scheduler.description_timeout_s + _PATIENCE_S:
                found.append(f"images and detections arrive, but no frame was described for {silent_s:.0f} s: either "
                             "none has the stamp of the other (sync.slop_s), or the worker hangs")
        if (same := self.get_node_names_and_namespaces().count(own)) > 1:
            found.append(f"{same} nodes are called {self.get_fully_qualified_name()}: a request reaches any of them")
        if total > self._reported:
            found.append(f"{total - self._reported} problems since the last report")
        return found


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; `ros2 run ros_gpt4roi perception`."""
    return run_node(Perception, args, Perception.autostart)


if __name__ == "__main__":
    sys.exit(main())
