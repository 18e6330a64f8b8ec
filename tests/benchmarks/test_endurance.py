"""What the node stands: malformed messages and minutes of use, at a fifth of the published runs."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from isolation import for_children  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from benchmarks.malformed.kinds import KINDS, TOPICS, Sample  # noqa: E402
from benchmarks.malformed.requests import ACTIONS  # noqa: E402
from benchmarks.malformed.senders import SERVICES  # noqa: E402


def run(module: str, path: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{module}", "--json", str(path), *arguments],
                          env=for_children(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_malformed_messages_cost_no_right_answer(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    results = run("malformed_messages", tmp_path / "results.json", "--count", "4000")
    assert results["known_good"] == results["known_good_right"] >= 80
    sent = sum(sum(outcomes.values()) for kinds in results["inputs"].values() for outcomes in kinds.values())
    assert sent == results["messages"] == 4000
    assert all(outcomes for kinds in results["inputs"].values() for outcomes in kinds.values())


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_two_minutes_of_use_leave_the_node_as_it_was(root: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    # The parts of so short a time are seconds, in which the allocator gives memory back and takes it again.
    results = run("soak", tmp_path / "results.json", "--minutes", "2", "--rise-percent", "4")
    assert sum(results["answered"].values()) == results["questions"] > 200
    assert {"OK", "INVALID", "CANCELED"} <= set(results["answered"])


def test_every_input_has_kinds() -> None:
    assert {kind.input for kind in KINDS} == {*ACTIONS, *TOPICS, *SERVICES}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.input}: {kind.name}")
def test_the_seed_gives_the_messages(kind: Any) -> None:
    sample = Sample(kind.input, np.zeros((48, 64, 3), np.uint8), Header(frame_id="camera"))

    def make(seed: int) -> list[str]:
        random = Random(seed)
        made = [kind.make(random, sample) for _ in range(3)]
        # The padding within serialised data is whatever the memory held.
        return [str(len(one)) if isinstance(one, bytes) else repr(one) for one in made]
    assert make(1) == make(1)
