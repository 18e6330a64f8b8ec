"""A node under test in a process of its own, and a peer that talks to it over DDS from this one."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data

ROOT = Path(__file__).resolve().parents[2]
# Far beyond what anything here takes, on a busy machine too: only a failure reaches it.
WAIT_S = float(os.environ.get("ROS_GPT4ROI_TEST_WAIT_S", "240"))


class Process:
    """A node of the package, started as `ros2 run` would; stopped by SIGINT."""

    def __init__(self, module: str, log: Path, *arguments: str, **parameters: object) -> None:
        """arguments: more ROS arguments, such as a parameter file. parameters: `__` stands for the dot in a name."""
        command = [sys.executable, "-m", f"ros_gpt4roi.nodes.{module}", "--ros-args", *arguments]
        for name, value in parameters.items():
            value = str(value).lower() if isinstance(value, bool) else value
            command += ["-p", f"{name.replace('__', '.')}:={value}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)  # see ROS wheels: it stops them finding their libraries
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit status of a process that ends by itself."""
        return self._process.wait(WAIT_S)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Asks the process to end; returns its exit status, −9 where it had to be killed."""
        if self.running:
            self._process.send_signal(number)
        try:
            return self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Peer:
    """A node of the test's own; everything waits for a condition while it spins."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("peer")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self._watched: Process | None = None

    def watch(self, process: Process) -> None:
        """From now on, waiting fails at once where this process has ended."""
        self._watched = process

    def wait_for(self, condition: Callable[[], object], what: str, poll_s: float = 0.05) -> object:
        """Spins until the condition holds, looking after every event and every poll_s; returns what it gave.

        Fails after WAIT_S, and where the watched process has ended.
        """
        end = time.monotonic() + WAIT_S
        while not (value := condition()):
            if self._watched is not None and not self._watched.running:
                pytest.fail(f"the node ended while it was waited for {what}:\n{self._watched.output()}")
            if time.monotonic() > end:
                pytest.fail(f"waited {WAIT_S:.0f} s for {what}")
            self.executor.spin_once(timeout_sec=poll_s)
        return value

    def collect(self, kind: type, topic: str, qos: object = qos_profile_sensor_data,
                also: Callable[[object], None] = lambda message: None) -> list:
        """A list that grows by every message of a topic, once the publisher is matched."""
        messages: list = []

        def received(message: object) -> None:
            messages.append(message)
            also(message)

        self.node.create_subscription(kind, topic, received, qos)
        self.wait_for(lambda: self.node.count_publishers(topic), f"a publisher of {topic}")
        return messages

    def publisher(self, kind: type, topic: str, qos: object = 10) -> object:
        """A publisher that the node listens to."""
        publisher = self.node.create_publisher(kind, topic, qos)
        self.wait_for(publisher.get_subscription_count, f"a subscription of {topic}")
        return publisher

    def call(self, kind: type, name: str, request: object) -> object:
        """The response of a service."""
        client = self.node.create_client(kind, name)
        self.wait_for(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.wait_for(future.done, f"a response of {name}")
        self.node.destroy_client(client)
        return future.result()

    def action(self, kind: type, name: str, **qos: object) -> ActionClient:
        client = ActionClient(self.node, kind, name, **qos)
        self.wait_for(client.server_is_ready, f"action {name}")
        return client

    def result_of(self, future: Any, what: str) -> Any:
        self.wait_for(future.done, what)
        return future.result()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
