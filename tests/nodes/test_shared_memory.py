"""Shared memory of killed processes: removed, and that of living ones never."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from isolation import claim_domain, for_children

from ros_gpt4roi.nodes.shared_memory import remove_abandoned_segments

_SHARED = Path("/dev/shm")
_NODE = """
import sys
from rclpy.node import Node
from ros_gpt4roi.nodes.process import run_node

class WithSharedMemory(Node):
    def __init__(self):
        super().__init__("with_shared_memory")
        print("ready", flush=True)

sys.exit(run_node(WithSharedMemory))
"""


def _start(root: Path, domain: int) -> tuple[subprocess.Popen[str], set[Path]]:
    """A process with a node, and the segments that it has mapped."""
    process = subprocess.Popen([sys.executable, "-c", _NODE], cwd=root, stdout=subprocess.PIPE, text=True,
                               env=for_children({"ROS_DOMAIN_ID": str(domain)}))
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8").split()
    return process, {Path(word) for word in maps if word.startswith("/dev/shm/fast") and "_port" not in word}


def _with_locks(segments: set[Path]) -> set[Path]:
    return segments | {path.with_name(f"{path.name}_el") for path in segments}


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_killed_process_leaves_nothing_after_the_next_start_and_a_living_one_keeps_its_own(root: Path) -> None:
    pytest.importorskip("rclpy", reason="no ROS 2 here")
    # In domains of their own: a process that met the killed one would remove its segment itself.
    with ExitStack() as stack:
        domains = []
        for _ in range(2):
            domain, claim = claim_domain()
            stack.enter_context(claim)
            domains.append(domain)
        living, used = _start(root, domains[0])
        stack.callback(_end, living)
        doomed, abandoned = _start(root, domains[1])
        _end(doomed)
        if not abandoned:
            pytest.skip("this middleware keeps no segments in /dev/shm")
        assert _with_locks(abandoned) <= set(_SHARED.iterdir())
        _end(_start(root, domains[0])[0])
        left = set(_SHARED.iterdir())
    assert used and _with_locks(used) <= left
    assert not _with_locks(abandoned) & left


def test_a_process_that_is_told_to_end_leaves_nothing(root: Path) -> None:
    pytest.importorskip("rclpy", reason="no ROS 2 here")
    domain, claim = claim_domain()
    with claim:
        process, used = _start(root, domain)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 0 and not _with_locks(used) & set(_SHARED.iterdir())


def test_only_names_of_fast_dds_are_touched_and_no_link_is_followed(tmp_path: Path) -> None:
    kept = ["fastrtps_port7400_el", "fastrtps_port7400", "sem.fastrtps_port7400_mutex", "fastrtps_0123_el",
            "notfastrtps_0123456789abcdef_el", "fastdds_fedcba9876543210_el"]
    for name in kept[:-1]:
        (tmp_path / name).touch()
    (tmp_path / kept[-1]).symlink_to(tmp_path / kept[0])
    for name in ("fastrtps_0123456789abcdef", "fastrtps_0123456789abcdef_el"):
        (tmp_path / name).touch()
    assert remove_abandoned_segments(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
