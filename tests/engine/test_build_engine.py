from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ros_gpt4roi.engine import build_engine
from ros_gpt4roi.engine.build_engine import main
from ros_gpt4roi.engine.cache import EngineCache, EngineKey, model_entry
from ros_gpt4roi.engine.gate import GateReport
from ros_gpt4roi.model.checkpoint import LoadedModel, save_checkpoint

KEY = EngineKey("a", "tensorrt", "10.3.0", "Orin", "8.7", "540.4", "frames", "fp16")


@pytest.fixture
def filled(cache: EngineCache, tmp_path: Path) -> EngineCache:
    (tmp_path / "plan").write_bytes(b"plan" * 1000)
    for entry in ("one", "two"):
        cache.store(entry, KEY, tmp_path / "plan", {"seconds": 9.5, "peak_mib": 321})
    return cache


def test_list_shows_what_is_there(filled: EngineCache, capsys: pytest.CaptureFixture) -> None:
    sha = filled.load("one", KEY).sha256
    GateReport(sha, KEY.digest, "fp16", 1, 0.02, {}, 0, 0, "image_tokens differs by 3").write(filled.report_path("one"))
    assert main(["--list", "--cache", str(filled.folder)]) == 0
    text = capsys.readouterr().out
    assert "2 engines" in text and "GPU Orin" in text and "built in 9.5 s with 321 MiB" in text
    assert "one.engine" in text and "refused: image_tokens differs by 3" in text
    assert text.splitlines()[2].endswith("gate not run")


def test_check_fails_for_a_damaged_engine_and_names_it(filled: EngineCache, capsys: pytest.CaptureFixture) -> None:
    assert main(["--check", "--cache", str(filled.folder)]) == 0
    path = filled.path("two")
    path.write_bytes(path.read_bytes()[:-7])
    assert main(["--check", "--cache", str(filled.folder)]) == 1
    assert "BAD" in (text := capsys.readouterr().out) and "two.engine: truncated" in text


def test_check_covers_exported_graphs(
        cache: EngineCache, remembered: Callable[[str], None], capsys: pytest.CaptureFixture) -> None:
    remembered("tiny")
    assert main(["--check", "--cache", str(cache.folder)]) == 0
    graph = cache.graph_folder("tiny") / "vision.onnx"
    graph.write_bytes(graph.read_bytes()[1:])
    assert main(["--check", "--cache", str(cache.folder)]) == 1
    assert "vision.onnx is damaged" in capsys.readouterr().out


def test_missing_model_is_an_error_message(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--model", str(tmp_path / "none"), "--cache", str(tmp_path / "cache")]) == 1
    assert "none" in capsys.readouterr().err


def test_every_precision_is_tried_whatever_fails(
        loaded: LoadedModel, cache: EngineCache, tmp_path: Path, capsys: pytest.CaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(build_engine, "this_gpu", lambda: None)
    save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "model")
    (cache.folder / f".{model_entry(tmp_path / 'model')}.onnx.lock").mkdir()  # which opens to no process
    assert main(["--model", str(tmp_path / "model"), "--cache", str(cache.folder), "--precision", "fp16"]) == 1
    error = capsys.readouterr().err
    for precision in ("fp16", "fp32"):
        assert f"{precision}: [Errno 21] Is a directory" in error


@pytest.mark.slow
def test_command_builds_ahead_of_time(loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("tensorrt_rtx")
    save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "model")
    (tmp_path / "mine.yaml").write_text("compute_capabilities: [SM89]\nreserve_mib: 0\n")
    arguments = ["--model", str(tmp_path / "model"), "--cache", str(tmp_path / "cache"),
                 "--profile", str(tmp_path / "mine.yaml")]
    assert main(arguments) == 0
    assert "built ahead of time" in capsys.readouterr().out
    assert main(["--check", "--cache", str(tmp_path / "cache")]) == 0
    assert "fp16, tensorrt_rtx" in capsys.readouterr().out
