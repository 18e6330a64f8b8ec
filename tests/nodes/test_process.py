"""What a node's process does before its node: which transports it takes, and who may read its log."""
from __future__ import annotations

import signal
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from ros_peer import Peer, Process  # noqa: E402


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
