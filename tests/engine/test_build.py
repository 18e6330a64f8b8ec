from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.engine.build_process import Limits, Progress, run_job
from ros_gpt4roi.engine.cache import EngineCache
from ros_gpt4roi.engine.export import VisionNetwork, provide_onnx, save_network
from ros_gpt4roi.engine.precision.calibration import default_frames_folder
from ros_gpt4roi.engine.profiles import EngineProfile, find_profile
from ros_gpt4roi.engine.tensorrt.engine import EngineRequest, provide_engine
from ros_gpt4roi.engine.tensorrt.library import Gpu, choose_library, load_library
from ros_gpt4roi.model.checkpoint import read_config
from ros_gpt4roi.paths import find_model

pytest.importorskip("tensorrt_rtx")

# What else runs on the machine that tests is not the tests' business.
PROFILE = EngineProfile("test", compute_capabilities=("SM89", "SM120"), reserve_mib=0)
LIMITS = Limits(memory_mib=8192, reserve_mib=0, timeout_s=280)


@pytest.fixture
def request_for(network: VisionNetwork, remembered: Callable[[str], None]) -> EngineRequest:
    remembered("tiny")
    return EngineRequest(network, "tiny", PROFILE, load_library("tensorrt_rtx"), None, default_frames_folder())


def test_engine_is_built_ahead_of_time_once(request_for: EngineRequest, cache: EngineCache) -> None:
    told: list[Progress] = []
    engine, key = provide_engine(request_for, "fp16", cache, progress=told.append)
    assert len(engine.plan) > 100_000
    assert engine.header["peak_mib"] > 50 and engine.header["seconds"] > 0
    assert (key.gpu, key.capability, key.precision) == ("any", "SM89 SM120", "fp16")
    building = [p for p in told if p.step.startswith("building the fp16 engine")]
    assert len(building) > 5 and all(0 <= p.fraction <= 1 for p in building)
    assert told[-1] == Progress("built the fp16 engine", 1.0)

    built = engine.path.stat().st_mtime_ns
    told.clear()
    again, _ = provide_engine(request_for, "fp16", cache, build=False, progress=told.append)
    assert again.sha256 == engine.sha256 and again.path.stat().st_mtime_ns == built and not told


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "fp8"])
def test_every_precision_builds(request_for: EngineRequest, cache: EngineCache, precision: str) -> None:
    engine, key = provide_engine(request_for, precision, cache)
    assert len(engine.plan) > 100_000
    assert bool(key.calibration) == (precision in ("int8", "fp8"))


@pytest.mark.slow
def test_damaged_engine_is_built_anew_and_the_log_says_why(
        request_for: EngineRequest, cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    engine, _ = provide_engine(request_for, "fp16", cache)
    data = bytearray(engine.path.read_bytes())
    data[-1000] ^= 1
    engine.path.write_bytes(data)
    with pytest.raises(EngineError, match="check sum is wrong, and building is switched off"):
        provide_engine(request_for, "fp16", cache, build=False)
    with caplog.at_level("INFO"):
        again, _ = provide_engine(request_for, "fp16", cache)
    assert "tampered or damaged, the plan's check sum is wrong, building it" in caplog.text
    assert again.header["size"] == engine.header["size"]


@pytest.mark.slow
def test_tabletop_engine_is_built_ahead_of_time_for_every_card_of_the_profile(cache: EngineCache) -> None:
    profile = dataclasses.replace(find_profile("rtx", None), reserve_mib=0)
    assert profile.compute_capabilities
    torch.manual_seed(0)
    network = VisionNetwork.build(read_config(find_model("tabletop")), width=256)
    request = EngineRequest(network, "tabletop", profile, load_library("tensorrt_rtx"), None, default_frames_folder())
    engine, _ = provide_engine(request, "fp16", cache)
    weights = sum(p.numel() * 2 for p in network.parameters())
    assert 0.9 * weights < len(engine.plan) < 3 * weights


_BUILD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ros_gpt4roi.engine.cache import EngineCache
from ros_gpt4roi.engine.tensorrt.library import load_library
from ros_gpt4roi.engine.precision.calibration import default_frames_folder
from ros_gpt4roi.engine.export import load_network
from ros_gpt4roi.engine.profiles import EngineProfile
from ros_gpt4roi.engine.tensorrt.engine import EngineRequest, provide_engine
profile = EngineProfile("test", compute_capabilities=("SM89", "SM120"), reserve_mib=0)
request = EngineRequest(load_network(Path(sys.argv[2])), "tiny", profile, load_library("tensorrt_rtx"), None,
                        default_frames_folder())
steps = []
engine, _ = provide_engine(request, "fp16", EngineCache(Path(sys.argv[3])), progress=steps.append)
print(engine.sha256, "built" if any(not step.step.startswith("waiting for") for step in steps) else "waited")
"""


@pytest.mark.slow
def test_of_two_processes_one_builds_and_the_other_waits(
        request_for: EngineRequest, network: VisionNetwork, cache: EngineCache, root: Path, tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    save_network(network, tmp_path / "network")
    arguments = [sys.executable, "-c", _BUILD, str(root), str(tmp_path / "network"), str(cache.folder)]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = sorted(process.communicate(timeout=280)[0].split() for process in processes)
    assert lines[0][0] == lines[1][0]
    assert {line[1] for line in lines} == {"built", "waited"}


def test_missing_graph_is_refused_where_building_is_off(network: VisionNetwork, cache: EngineCache) -> None:
    with pytest.raises(EngineError, match="not exported yet, and building is switched off"):
        provide_onnx(network, "tiny", cache, LIMITS, build=False)


def test_stale_and_damaged_graphs_are_named(
        network: VisionNetwork, cache: EngineCache, remembered: Callable[[str], None]) -> None:
    remembered("tiny")
    assert provide_onnx(network, "tiny", cache, LIMITS, build=False).path.exists()
    changed = VisionNetwork.build(dataclasses.replace(network.config), network.projector.out_features)
    with pytest.raises(EngineError, match="stale"):
        provide_onnx(changed, "tiny", cache, LIMITS, build=False)
    graph = cache.graph_folder("tiny") / "vision.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with pytest.raises(EngineError, match="vision.onnx is damaged"):
        provide_onnx(network, "tiny", cache, LIMITS, build=False)


@pytest.mark.parametrize("files", [3, [], {}, {"../../x": "0"}, None, "text", {"vision.onnx": 0}])
def test_a_record_that_is_none_is_no_graph(network: VisionNetwork, cache: EngineCache, files: object,
                                           remembered: Callable[[str], None]) -> None:
    remembered("tiny")
    record = cache.graph_folder("tiny") / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "files": files}))
    with pytest.raises(EngineError, match="(unreadable|damaged).*and building is switched off"):
        provide_onnx(network, "tiny", cache, LIMITS, build=False)


@pytest.mark.parametrize("name", ["record.json", "vision.onnx"])
def test_a_graph_is_read_from_regular_files_only(network: VisionNetwork, cache: EngineCache, name: str,
                                                 remembered: Callable[[str], None]) -> None:
    remembered("tiny")
    path = cache.graph_folder("tiny") / name
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path.unlink()
        make(path)
        with pytest.raises(EngineError, match="no regular file"):
            provide_onnx(network, "tiny", cache, LIMITS, build=False)


def test_build_stops_at_its_memory_limit(tmp_path: Path, network: VisionNetwork) -> None:
    save_network(network, tmp_path)
    job = {"kind": "export", "network": str(tmp_path), "onnx": str(tmp_path / "vision.onnx")}
    with pytest.raises(EngineError, match="memory_limit_mib 20"):
        run_job(job, dataclasses.replace(LIMITS, memory_mib=20))
    with pytest.raises(EngineError, match="reserve_mib"):
        run_job(job, dataclasses.replace(LIMITS, reserve_mib=1 << 30))
    with pytest.raises(EngineError, match="timeout_s"):
        run_job(job, dataclasses.replace(LIMITS, timeout_s=0.0))
    assert not (tmp_path / "vision.onnx").exists()


@pytest.mark.parametrize("path", ["", ":", "/nowhere::.", "."])
def test_the_child_runs_no_code_of_the_current_folder(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    for module in ("contextlib", "onnx", "sitecustomize"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", path)
    job = {"kind": "build", "onnx": str(tmp_path / "none.onnx"), "precision": "fp16", "converted": "", "plan": ""}
    with pytest.raises(EngineError, match="none.onnx"):
        run_job(job, LIMITS)
    assert not (tmp_path / "ran").exists()


def test_error_of_the_child_reaches_the_parent(tmp_path: Path) -> None:
    job = {"kind": "build", "onnx": str(tmp_path / "none.onnx"), "precision": "fp16", "converted": "", "plan": ""}
    with pytest.raises(EngineError, match="none.onnx"):
        run_job(job, LIMITS)


def test_library_says_why_it_was_left_out() -> None:
    # TensorRT-RTX is for cards: it has no kernels for Orin, Thor and H200.
    orin, card = Gpu("Orin", (8, 7), "540.4"), Gpu("NVIDIA GeForce RTX 4090", (8, 9), "580.1")
    with pytest.raises(EngineError, match=r"does not know compute capability \(8, 7\)"):
        choose_library("tensorrt_rtx", orin)
    assert choose_library("tensorrt_rtx", card).ahead_of_time
    with pytest.raises(EngineError, match="tensorrt_none cannot be imported"):
        load_library("tensorrt_none")
