"""The whole loop as people run it: a robot records, is corrected, retrained, takes the new model and gives it back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_robot_learns_what_it_was_told_and_takes_it_back(root: Path, tmp_path: Path) -> None:
    found = tmp_path / "results.json"
    # After so few corrections, the model may forget more than the default of swap.max_loss allows.
    done = subprocess.run(
        [sys.executable, root / "scripts" / "retrain_demo.py", "--corrections", "50", "--scenes", "25", "--max-loss",
         "0.5", "--out", tmp_path / "out", "--json", found, "--", "--epochs", "15"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout
    results = json.loads(found.read_text())
    assert results["corrections"] == 50 and results["wrong_on_purpose"] == 2
    assert results["new_before"] < 0.05 and results["new_after"] > 0.2, results
    assert results["old_before"] > 0.85 and results["old_after"] > 0.6, results
    swap = results["swap"]
    assert results["rolled_back"] is True and swap["swapped"] is True
    assert swap["version_before"].startswith("tabletop@") and swap["version_swapped"].startswith("tabletop_2@")
    assert swap["after"] != swap["before"] == swap["again"]
    assert 0 < results["minutes_by_step"]["retrain"] < results["minutes"] and results["peak_memory_mib"] > 100
    assert "called by their kind" in done.stdout and "\nDone: " in done.stdout


def test_ctrl_c_ends_all_that_was_started(root: Path, tmp_path: Path) -> None:
    demo = subprocess.Popen([sys.executable, root / "scripts" / "retrain_demo.py", "--out", tmp_path / "out"],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        shown = ""
        while "1. A robot starts" not in shown:  # what is imported before it starts processes of its own
            line = demo.stdout.readline()
            assert line, shown
            shown += line
        process, nodes = psutil.Process(demo.pid), list[psutil.Process]()
        while not nodes and demo.poll() is None:
            nodes = process.children()
        demo.send_signal(signal.SIGINT)
        shown = demo.communicate(timeout=120)[0]
        assert demo.returncode == 130 and "interrupted" in shown and "Traceback" not in shown, shown
        assert not any(node.is_running() for node in nodes)
    finally:
        demo.kill()
        demo.wait()


def test_a_folder_of_somebody_else_is_left_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = subprocess.run([sys.executable, root / "scripts" / "retrain_demo.py", "--out", tmp_path],
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and f"{tmp_path} holds something else" in done.stderr, done.stderr
    assert (tmp_path / "mine.txt").read_text() == "mine"
