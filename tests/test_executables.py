"""The installed executables: they can be interrupted while they still import."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: run through scripts/test.sh")

from ament_index_python.packages import get_package_prefix  # noqa: E402

_LIMIT_S = 120.0


@pytest.mark.parametrize(("name", "status"), [("perception", 0), ("sim_camera", 0), ("speech", 0),
                                              ("build_engine", 130), ("web_console", 0)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_ends_the_process_in_order(name: str, status: int, number: signal.Signals) -> None:
    executable = Path(get_package_prefix("ros_gpt4roi")) / "lib" / "ros_gpt4roi" / name
    process = subprocess.Popen([executable], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        limit = time.monotonic() + _LIMIT_S
        # numpy comes early in every one's imports, seconds before the last of them.
        while "/numpy/" not in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8"):
            assert process.poll() is None and time.monotonic() < limit
        process.send_signal(number)
        output = process.communicate(timeout=_LIMIT_S)[0]
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, output) == (status, "")
