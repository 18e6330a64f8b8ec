"""The robot's side of the web console: what the client receives, brought into the server's event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rclpy.qos import qos_profile_sensor_data
from ros_gpt4roi_interfaces.action import Watch
from ros_gpt4roi_interfaces.msg import Answer, Correction, Query, Region, RegionDescriptionArray, Utterance
from ros_gpt4roi_interfaces.srv import FindEvidence
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ros_gpt4roi.client import AskReply, Client, NodeState, WatchReply, status_name
from ros_gpt4roi.image_messages import ImageError, MessageImage

from .frames import Frames, finite
from .talk import TalkError, TalkStream
from .voice import Voice

_MOST_ARRIVED = 64  # messages that wait for the event loop; the oldest go first
_RATES_S = 5.0  # over which rates are counted
_NO_IMAGE_S = 5.0


class Rate:
    """How often something happens."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=512)

    def count(self, now: float) -> None:
        """It happened."""
        self._times.append(now)

    def hertz(self, now: float) -> float:
        """Its rate over the last seconds."""
        return sum(now - each < _RATES_S for each in self._times) / _RATES_S


class Robot:
    """Frames, state and answers of one perception node, for use in the event loop alone.

    Images are received only while somebody watches.

    Args:
        client: The client; its node is spun in another thread.
        loop: The event loop.
        image: The camera's topic. Where only `TOPIC/compressed` is published, that is taken.
        on_change: Called in the loop when another frame is shown.
        on_voice: Called in the loop with what the speech node has heard or said, as pages take it.
    """

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop, image: str,
                 on_change: Callable[[], None], on_voice: Callable[[dict[str, Any]], None]) -> None:
        self.frames = Frames()
        self._client, self._loop, self._on_change, self._on_voice = client, loop, on_change, on_voice
        self._voice = Voice(client)
        self._talk: TalkStream | None = None  # of whoever talked last
        self._topic = image if image.startswith("/") else client.topic_name(image)
        self._source = ""  # the topic that is subscribed
        self._listening_s: float | None = None
        self._arrived: deque[tuple[float, Any]] = deque(maxlen=_MOST_ARRIVED)
        self._stops: list[Callable[[], None]] = []
        self._stop_image: Callable[[], None] = lambda: None
        self._image_s = 0.0
        self._image_error = ""
        self._images, self._descriptions = Rate(), Rate()
        self._latency_s: float | None = None

    @property
    def namespace(self) -> str:
        """Where the perception node's topics are."""
        return self._client.namespace

    def listen(self) -> None:
        """Begins to receive, or looks anew for the camera; called once a second while somebody watches."""
        if self._listening_s is None:
            self._listening_s = time.monotonic()
            self._stops = [self._client.on_descriptions(self._receive),
                           self._voice.listen(self._on_heard, self._on_reply)]
        source = self._image_source()
        if source != self._source:
            self._stop_image()
            kind = CompressedImage if source.endswith("/compressed") else Image
            self._stop_image = self._client.listen(kind, source, self._receive, qos_profile_sensor_data)
            self._source = source

    def rest(self) -> None:
        """Receives nothing any more: nobody watches."""
        for stop in [*self._stops, self._stop_image]:
            stop()
        self._stops, self._stop_image, self._source, self._listening_s = [], lambda: None, "", None
        self._arrived.clear()
        self.frames.clear()

    def ask(self, query: Query, on_text: Callable[[str], None], on_end: Callable[[Answer | str], None],
            limit_s: float) -> AskReply:
        """Asks; both functions are called in the loop.

        Args:
            query: What is asked.
            on_text: Receives each piece of the answer.
            on_end: Receives the answer, or why there is none.
            limit_s: Most seconds until the answer.
        """
        def ended(reply: Any) -> None:
            error = reply.exception()
            self._call(on_end, str(error) if error is not None else reply.result())

        reply = self._client.ask_async(query, on_text=lambda piece: self._call(on_text, piece), limit_s=limit_s)
        reply.add_done_callback(ended)
        return reply

    def watch_question(self, query: Query, on_change: Callable[[Watch.Feedback], None],
                       on_end: Callable[[str], None]) -> WatchReply:
        """Has a question asked again and again; both functions are called in the loop.

        Args:
            query: The question.
            on_change: Receives each change of its answer.
            on_end: Receives why it has ended; "" where its time is over or it was cancelled.
        """
        def ended(reply: Any) -> None:
            error = reply.exception()
            answer = None if error is not None or not reply.aborted else reply.result().answer
            self._call(on_end, str(error or "") if answer is None else f"{status_name(answer)}: {answer.error}")

        reply = self._client.watch_async(query, on_change=lambda change: self._call(on_change, change))
        reply.add_done_callback(ended)
        return reply

    def find_evidence(self, region: Region, header: Header, on_end: Callable[[FindEvidence.Response | str], None],
                      limit_s: float) -> None:
        """Asks which training records a region resembles.

        Args:
            region: The region, with its box.
            header: Of its frame.
            on_end: Called in the loop with the response, or why there is none.
            limit_s: Most seconds until the response.
        """
        def ended(reply: Any) -> None:
            error = reply.exception()
            self._call(on_end, str(error) if error is not None else reply.result())

        self._client.find_evidence_async(region, header=header, limit_s=limit_s).add_done_callback(ended)

    def talk(self, rate: int, on_end: Callable[[str], None]) -> TalkStream:
        """Lets a browser talk; arguments as of `TalkStream`.

        Raises:
            TalkError: There is no speech node to talk to, or somebody talks already.
        """
        if self._talk is not None and self._talk.open:
            raise TalkError("somebody else talks at this moment")
        self._talk = TalkStream(self._voice, rate, on_end)
        return self._talk

    def correct(self, correction: Correction) -> bool:
        """Publishes a person's correction. Returns whether anybody listens."""
        return self._client.correct(correction)

    def state(self) -> dict[str, Any]:
        """What a page shows about the robot's health."""
        now = time.monotonic()
        voice, message = self._voice.state()
        return {"node": self._node_state(), "voice": {"there": voice, "message": message},
                "picture_error": self._picture_error(now), "image_topic": self._topic,
                "rates": {"images": round(self._images.hertz(now), 1),
                          "descriptions": round(self._descriptions.hertz(now), 1),
                          "description latency [ms]": round(1000 * self._latency_s) if self._latency_s else None}}

    def _node_state(self) -> dict[str, Any]:
        state: NodeState | None = self._client.state
        if state is None or state.quiet_s():
            return {"there": False, "message": f"no perception node is heard in namespace {self.namespace}"}
        return {"there": True, "name": state.name, "level": state.level, "message": state.message,
                "model": state.model, "values": dict(state.values)}

    def _picture_error(self, now: float) -> str:
        if self._image_error:
            return self._image_error
        if self._listening_s is not None and now - max(self._image_s, self._listening_s) > _NO_IMAGE_S:
            return f"no image has come on {self._source or self._topic} for more than {_NO_IMAGE_S:.0f} s"
        return ""

    def _on_heard(self, utterance: Utterance) -> None:
        self._call(self._on_voice, {"type": "heard", "text": utterance.text, "final": utterance.final,
                                    "confidence": finite(utterance.confidence, 3)})

    def _on_reply(self, text: str) -> None:
        self._call(self._on_voice, {"type": "reply", "text": text})

    def _image_source(self) -> str:
        compressed = f"{self._topic}/compressed"
        raw_there = self._client.node.count_publishers(self._topic)
        return compressed if not raw_there and self._client.node.count_publishers(compressed) else self._topic

    def _call(self, function: Callable[[Any], None], value: Any) -> None:
        """Has a function called in the loop, from any thread; after the loop's end nobody is interested."""
        try:
            self._loop.call_soon_threadsafe(function, value)
        except RuntimeError:
            pass

    def _receive(self, message: Any) -> None:
        """In the client's thread. The queue is bounded: a loop that is late loses what is old."""
        self._arrived.append((time.monotonic(), message))
        self._call(self._take, None)

    def _take(self, _: None) -> None:
        shown = self.frames.shown.number if self.frames.shown is not None else 0
        while self._arrived:
            received_s, message = self._arrived.popleft()
            if isinstance(message, RegionDescriptionArray):
                self._descriptions.count(received_s)
                self._latency_s = self.frames.add_descriptions(message, received_s)
                continue
            self._images.count(received_s)
            self._image_s = received_s
            try:
                self.frames.add_image(message.header, MessageImage(message), received_s)
                self._image_error = ""
            except ImageError as error:
                self._image_error = f"the picture of {self._source} can't be shown: {error}"
        if self.frames.shown is not None and self.frames.shown.number != shown:
            self._on_change()
