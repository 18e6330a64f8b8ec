"""The node with all that it says and holds, and a frame that it describes rightly, by its ground truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from ros_gpt4roi_interfaces.action import Ask
from ros_gpt4roi_interfaces.msg import Answer, Query, Region, RegionDescriptionArray
from ros_gpt4roi_interfaces.srv import DescribeRegions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection2D, Detection2DArray

from benchmarks.end_to_end import LIMIT_S, Station
from ros_gpt4roi.client import ClientError
from ros_gpt4roi.image_messages import rgb_to_compressed, rgb_to_image
from ros_gpt4roi.messages import box_to_message
from ros_gpt4roi.nodes.conversions import stamp_ns
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import Scene, SceneObject
from ros_gpt4roi.sim.tabletop.scoring import score
from ros_gpt4roi.sim.text_rounds import Expected

WIDTH, HEIGHT = 320, 240
DEPTH = 200  # of every history here, at the node too: nothing that is sent may be lost on the way
STATUS = {getattr(Answer, name): name for name in (
    "OK", "CANCELED", "TIMEOUT", "NO_FRAME", "UNKNOWN_REGION", "OVERLOADED", "INVALID", "FAILED")}
_FEWEST_OBJECTS, _MOST_SCENES = 3, 40
_SPIN_S = 0.05


class ObservedStation(Station):
    """A perception node in its own process, whose answers, diagnostics and resources are watched.

    What is sent to it and what comes back goes through a node that only the thread that waits spins: rclpy's action
    client loses responses that another thread takes before it has noted the request.

    Args:
        parameters: Of the node, beside what keeps every message.
    """

    def __init__(self, parameters: dict[str, Any] | None = None) -> None:
        kept = {f"qos.{topic}.{name}": value for topic in ("image", "detections", "depth")
                for name, value in (("reliability", "reliable"), ("depth", DEPTH))}
        super().__init__(Path("models/tabletop"), kept | (parameters or {}))
        self.process = psutil.Process(self._process.pid)
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("sender", context=self._context, enable_rosout=False,
                                      start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.compressed = False
        self.answers: list[Answer] = []
        self.described: list[RegionDescriptionArray] = []
        self.asked = 0  # how many answers have come or are to come; whoever asks counts
        self.counters: dict[str, str] = {}
        self.reports = 0
        history = QoSProfile(depth=DEPTH)
        self.raw_images = self.node.create_publisher(Image, "image", history)
        self.compressed_images = self.node.create_publisher(CompressedImage, "image/compressed", history)
        self.detections = self.node.create_publisher(Detection2DArray, "detections", history)
        self.texts = self.node.create_publisher(String, "query_text", history)
        # Replies beyond a client's history would be lost.
        self.ask = ActionClient(self.node, Ask, "ask", goal_service_qos_profile=history,
                                result_service_qos_profile=history)
        self.describe = self.node.create_client(DescribeRegions, "describe_regions", qos_profile=history)
        for kind, topic, callback in ((Answer, "answers", lambda message: self.answers.append(message)),
                                      (RegionDescriptionArray, "region_descriptions",
                                       lambda message: self.described.append(message)),
                                      (DiagnosticArray, "/diagnostics", self._on_diagnostics)):
            self.node.create_subscription(kind, topic, callback, history)

    def __enter__(self) -> ObservedStation:
        super().__enter__()
        try:
            image = self.compressed_images if self.compressed else self.raw_images
            heard, said = (image, self.detections, self.texts), ("answers", "region_descriptions", "/diagnostics")
            self.wait_for(lambda: all(publisher.get_subscription_count() for publisher in heard)
                          and all(map(self.node.count_publishers, said)) and self.ask.server_is_ready()
                          and self.describe.service_is_ready(), "the node's inputs and outputs")
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """As `Station.close`."""
        super().close()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """As `Station.wait_for`, while what comes is received."""
        end = time.monotonic() + LIMIT_S
        while not condition():
            self._check()
            if time.monotonic() > end:
                raise ClientError(f"{what}: not within {LIMIT_S:g} s; the node says:\n{self.log[-3000:]}")
            self.spin()

    def spin(self) -> None:
        """Receive one thing, or wait a little for it."""
        self._executor.spin_once(_SPIN_S)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.counters = {pair.key: pair.value for status in message.status for pair in status.values}
        self.reports += 1

    @property
    def log(self) -> str:
        """What the node has written to its terminal."""
        self._log.seek(0)
        return self._log.read()

    def resources(self) -> tuple[float, int, int]:
        """Resident memory in MiB, threads and file descriptors of the node's process."""
        with self.process.oneshot():
            return self.process.memory_info().rss / 2**20, self.process.num_threads(), self.process.num_fds()

    def peak_mib(self) -> float:
        """The most memory that the node's process has held."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def new_header(self) -> Header:
        """Of a frame that is taken now."""
        header = Header(frame_id="camera")
        header.stamp.sec, header.stamp.nanosec = divmod(time.time_ns(), 10**9)
        return header

    def send_image(self, scene: Scene, header: Header) -> None:
        """Publish the scene's picture, as the node takes pictures now."""
        if self.compressed:
            self.compressed_images.publish(rgb_to_compressed(scene.image, header, "png"))
        else:
            self.raw_images.publish(rgb_to_image(scene.image, header))

    def wait_for_answers(self) -> None:
        """Wait until all that was asked has been answered on the topic, too."""
        self.wait_for(lambda: len(self.answers) >= self.asked,
                      f"{self.asked} answers on the topic, of which {len(self.answers)} had come before")

    def fresh_counters(self) -> dict[str, int]:
        """The counters of a report that began after this call."""
        before = self.reports
        self.wait_for(lambda: self.reports > before + 1, "diagnostics")
        return {key: int(value) for key, value in self.counters.items() if value.isdecimal()}


class KnownGood:
    """A frame and questions about it that the node has answered rightly, and checks that it still does.

    Args:
        station: The node.
    """

    def __init__(self, station: ObservedStation) -> None:
        self._station = station
        self.checked = self.right = 0
        self.wrong: list[str] = []
        with TabletopRenderer(WIDTH, HEIGHT) as renderer:
            for index in range(_MOST_SCENES):
                self.scene = renderer.render_view("test", 0, index, 0)
                self.objects: Sequence[SceneObject] = self.scene.objects
                # Texts depend on all regions of a frame: without those that are told wrongly, others may be, too.
                while len(self.objects) >= _FEWEST_OBJECTS:
                    texts = self._describe()
                    kept = [item for place, item in enumerate(self.objects)
                            if _describes(item, texts.get(str(place + 1), ""))]
                    if len(kept) == len(self.objects) and all(map(self._ask, range(len(kept)))):
                        return
                    self.objects = kept if len(kept) < len(self.objects) else ()
        raise SystemExit("no scene is known well enough to begin with")

    def check(self) -> None:
        """Publish the frame and ask about it, each time by the next way of asking."""
        place = self.checked % len(self.objects)
        texts = self._describe()
        self._count("frame", str(texts), len(texts) == len(self.objects) and all(
            _describes(item, texts.get(str(number + 1), "")) for number, item in enumerate(self.objects)))
        way = (self._ask, self._ask_on_topic, self._ask_service, self._converse)[self.checked // 2 % 4]
        self._count(way.__name__.lstrip("_"), self._last, way(place))

    def _count(self, what: str, text: str, right: bool) -> None:
        self.checked += 1
        self.right += right
        if not right:
            self.wrong.append(f"{what}: {self._last if what != 'frame' else text}")

    def _describe(self) -> dict[str, str]:
        """The texts of a new frame's regions, by their ids."""
        station, header = self._station, self._station.new_header()
        station.described.clear()
        station.send_image(self.scene, header)
        station.detections.publish(Detection2DArray(header=header, detections=[
            Detection2D(id=str(place + 1), bbox=box_to_message(item.box)) for place, item in enumerate(self.objects)]))

        def described() -> list[Any]:
            return [message for message in station.described
                    if stamp_ns(message.header.stamp) == stamp_ns(header.stamp)]
        station.wait_for(described, "the descriptions of a known frame")
        return {item.region.id: item.text for item in described()[0].descriptions}

    def _ask(self, place: int) -> bool:
        return self._kind_is_right(place, self._answer_to(Query(text=self._question(place))))

    def _answer_to(self, query: Query) -> Answer:
        sent = self._station.ask.send_goal_async(Ask.Goal(query=query))
        self._station.wait_for(sent.done, "the acceptance of a known question")
        self._station.asked += 1
        result = sent.result().get_result_async()
        self._station.wait_for(result.done, "the answer to a known question")
        return result.result().result.answer

    def _ask_on_topic(self, place: int) -> bool:
        self._station.wait_for_answers()
        self._station.texts.publish(String(data=self._question(place)))
        self._station.asked += 1
        self._station.wait_for_answers()
        return self._kind_is_right(place, self._station.answers[-1])

    def _ask_service(self, place: int) -> bool:
        boxes = [Region(id=str(number + 1), bbox=box_to_message(item.box)) for number, item in enumerate(self.objects)]
        future = self._station.describe.call_async(DescribeRegions.Request(boxes=boxes))
        self._station.wait_for(future.done, "the descriptions of known boxes")
        texts = {item.region.id: item.text for item in future.result().descriptions.descriptions}
        self._last = f"status {future.result().status} {future.result().error}: {texts}"
        return _describes(self.objects[place], texts.get(str(place + 1), ""))

    def _converse(self, place: int) -> bool:
        first = self._answer_to(Query(text=self._question(place)))
        if not self._kind_is_right(place, first):
            return False
        other = (place + 1) % len(self.objects)
        return self._kind_is_right(other, self._answer_to(Query(text=self._question(other),
                                                                conversation_id=first.conversation_id)))

    def _question(self, place: int) -> str:
        return f"What kind of object is region {place + 1}?"

    def _kind_is_right(self, place: int, answer: Answer) -> bool:
        self._last = f"status {answer.status} {answer.error}: {answer.text}"
        return answer.status == Answer.OK and score(Expected("kind", (self.objects[place].kind,), 1), answer.text)


def _describes(item: SceneObject, text: str) -> bool:
    return score(Expected("attributes", (item.kind, item.colour, item.size, item.material), 1), text)
