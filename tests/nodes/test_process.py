"""What a node's process does around its node: its transports, what its callbacks raise, who may read its log."""
from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from isolation import for_children  # noqa: E402
from ros_peer import WAIT_S, Peer, Process  # noqa: E402


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
@pytest.mark.parametrize("transports, shared", [("UDPv4", False), ("", True)])
def test_shared_memory_is_switched_off_the_usual_way(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     transports: str, shared: bool) -> None:
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", transports)
    # Not LOCALHOST, with which rmw_fastrtps itself asks for shared memory.
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    process = Process("sim_camera", tmp_path / "camera.log", width=160, height=120, views=1)
    peer.watch(process)
    peer.wait_for(lambda: "are rendered" in process.output(), "the node to run")
    assert ("/dev/shm/fast" in Path(f"/proc/{process.pid}/maps").read_text()) == shared
    assert process.stop() == 0


# Its first callback raises, a later one ends the node.
FAULTY = """
import sys
from rclpy.node import Node
from ros_gpt4roi.nodes.process import NodeFailure, run_node

class Faulty(Node):
    calls = 0

    def __init__(self):
        super().__init__("faulty")
        self.create_timer(0.01, self.call)

    def call(self):
        self.calls += 1
        if self.calls == 1:
            raise KeyError("one\\n[ERROR] forged")
        raise NodeFailure("it was enough")

sys.exit(run_node(Faulty))
"""


def test_a_callback_that_raises_costs_itself_alone(ros: None, root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FAULTY], cwd=root, env=for_children(), text=True, capture_output=True,
                          timeout=WAIT_S)
    output = done.stdout + done.stderr
    assert done.returncode == 1 and "NodeFailure: it was enough" in output and "Traceback" not in output
    assert "callback failed: KeyError: 'one\\n[ERROR] forged'" in output


# A thread of it is within PyTorch when it ends.
BUSY = """
import sys
import threading
import torch
from rclpy.node import Node
from ros_gpt4roi.nodes.process import NodeFailure, run_node

class Busy(Node):
    def __init__(self):
        super().__init__("busy")
        threading.Thread(target=self.work, daemon=True).start()
        self.create_timer(0.5, self.call)

    def work(self):
        layer, values = torch.nn.Linear(256, 256), torch.ones(64, 256)
        while True:
            layer(values)

    def call(self):
        raise NodeFailure("it was enough")

sys.exit(run_node(Busy))
"""


def test_a_thread_that_still_works_does_not_abort_the_process(ros: None, root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BUSY], cwd=root, env=for_children(), text=True, capture_output=True,
                          timeout=WAIT_S)
    assert done.returncode == 1 and "it was enough" in done.stdout + done.stderr and "terminate" not in done.stderr


# At one place, it is within C for long, where no handler of a signal runs, and takes a KeyboardInterrupt for its own.
STUBBORN = """
import hashlib
import sys
from rclpy.node import Node
from ros_gpt4roi.nodes import process

where, process._BEGIN_LIMIT_S, process._END_LIMIT_S = sys.argv[1], float(sys.argv[2]), 1.0

def at(place):
    try:
        print(place, flush=True)
        if place == where:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    except KeyboardInterrupt:  # no second one comes
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

class Stubborn(Node):
    def __init__(self):
        super().__init__("stubborn")
        self.create_timer(0.1, lambda: at("callback"))

    def close(self):
        at("close")

process.run_node(Stubborn, None, lambda node: at("start"))
"""


@pytest.mark.parametrize(("where", "limit_s", "status", "said"), [
    ("start", 0.5, 0, "the main thread is still at work"), ("callback", 0.5, 0, "the main thread is still at work"),
    ("close", WAIT_S, 1, "the node's end takes more than")])
def test_a_node_that_does_not_end_by_itself_is_ended(ros: None, root: Path, where: str, limit_s: float, status: int,
                                                     said: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUBBORN, where, str(limit_s)], cwd=root, env=for_children(),
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while (line := process.stdout.readline().strip()) != ("callback" if where == "close" else where):
            assert line, process.communicate()
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=WAIT_S)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status and said in output and "Traceback" not in output, output


def test_a_node_ends_while_it_loads_its_model(peer: Peer, tiny_qwen: Path, tmp_path: Path) -> None:
    process = Process("perception", tmp_path / "perception.log", model=tiny_qwen)
    peer.watch(process)
    peer.wait_for(lambda: "]: loading " in process.output(), "the loading")
    assert process.stop() == 0, process.output()
    assert "is ready" not in process.output() and "Traceback" not in process.output(), process.output()


def test_no_other_user_can_read_the_log(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "ros"))
    (tmp_path / "ros").mkdir(mode=0o755)  # as other nodes make it
    process = Process("sim_camera", tmp_path / "camera.log", width=160, height=120, views=1)
    peer.watch(process)
    peer.wait_for(lambda: "are rendered" in process.output(), "the node to run")
    files = list((tmp_path / "ros").iterdir())
    assert process.stop() == 0
    assert files and all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert any("are rendered" in path.read_text() for path in files)


def test_a_closed_terminal_ends_a_node_in_order(peer: Peer, tmp_path: Path) -> None:
    process = Process("sim_camera", tmp_path / "camera.log", width=160, height=120, views=1)
    peer.watch(process)
    peer.wait_for(lambda: "are rendered" in process.output(), "the node to run")
    assert process.stop(signal.SIGHUP) == 0, process.output()
