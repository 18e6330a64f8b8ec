"""What goes wrong is counted, logged at a bearable rate and shown in /diagnostics."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import Header

from ros_gpt4roi.printable import printable

_PERIOD_S = 1.0


class Problems:
    """Counts problems by kind and logs each kind at most once in `period_s` seconds, with how many were passed over.

    Thread-safe: the executor's thread and the scheduler's worker both report.
    """

    def __init__(self, log: Callable[[str], None], period_s: float = 5.0) -> None:
        self._log = log
        self._period_s = period_s
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._last: dict[str, str] = {}
        self._logged: dict[str, tuple[float, int]] = {}  # kind → when, and the count then
        self._noted: set[str] = set()

    def report(self, kind: str, text: str) -> None:
        """Counts one problem; `text` names the offending value."""
        text = printable(text)
        with self._lock:
            count = self._counts[kind] = self._counts.get(kind, 0) + 1
            self._last[kind] = text
            logged_at, logged_count = self._logged.get(kind, (-float("inf"), 0))
            now = time.monotonic()
            if now - logged_at < self._period_s:
                return
            self._logged[kind] = (now, count)
        passed_over = count - logged_count - 1
        self._log(f"{kind}: {text}" + (f" (and {passed_over} more before)" if passed_over else ""))

    def note(self, kind: str, text: str) -> None:
        """Counts what is odd but served: logged the first time alone, and no problem."""
        text = printable(text)
        with self._lock:
            first = kind not in self._noted
            self._noted.add(kind)
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._last[kind] = text
        if first:
            self._log(f"{kind}: {text}")

    def total(self) -> int:
        """Problems of all kinds since the start."""
        with self._lock:
            return sum(count for kind, count in self._counts.items() if kind not in self._noted)

    def values(self) -> dict[str, str]:
        """For diagnostics: the count of each kind and the last text of it."""
        with self._lock:
            result = {}
            for kind, count in self._counts.items():
                result[kind] = str(count)
                result[f"{kind}, last"] = self._last[kind]
            return result


def diagnostic_array(header: Header, name: str, level: bytes, message: str, hardware_id: str,
                     values: Mapping[str, object]) -> DiagnosticArray:
    """One component's diagnostics, made printable; level is one of DiagnosticStatus's constants."""
    pairs = [KeyValue(key=key, value=f"{value:.6g}" if isinstance(value, float) else printable(str(value), 1000))
             for key, value in values.items()]
    status = DiagnosticStatus(level=level, name=name, message=printable(message, 1000),
                              hardware_id=printable(hardware_id), values=pairs)
    return DiagnosticArray(header=header, status=[status])


@dataclass(frozen=True)
class Report:
    """What a node has to say of itself.

    Attributes:
        level: One of DiagnosticStatus's constants.
        message: The state in a sentence.
        hardware_id: What runs.
        values: Counters and states.
    """

    level: bytes
    message: str
    hardware_id: str
    values: Mapping[str, object]


class DiagnosticsPublisher:
    """Publishes a node's report to /diagnostics each second, whatever ROS time does and while a step takes long.

    Args:
        node: The node.
        part: What the report is of, behind the node's name with its namespace.
        report: Gives the report.
    """

    def __init__(self, node: Node, part: str, report: Callable[[], Report]) -> None:
        self._node, self._report = node, report
        self._name = f"{node.get_fully_qualified_name().lstrip('/')}: {part}"
        self.progress = ""  # what a long step is at
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        # With use_sim_time and no /clock, or a paused one, ROS time stands still.
        node.create_timer(_PERIOD_S, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publishes the report now."""
        report = self._report()
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self._publisher.publish(diagnostic_array(header, self._name, report.level, report.message, report.hardware_id,
                                                 report.values))

    @contextmanager
    def during(self, step: str) -> Iterator[None]:
        """Publishes, and logs each new `progress`, while a step holds the executor and no timer runs."""
        self.progress, done = step, threading.Event()

        def report() -> None:
            logged = ""
            while not done.is_set():
                if (progress := self.progress) != logged:
                    logged = progress
                    self._node.get_logger().info(printable(progress))
                self.publish()
                done.wait(_PERIOD_S)

        thread = threading.Thread(target=report, name="diagnostics")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()  # only then does the executor's timer report again
            self.progress = ""
