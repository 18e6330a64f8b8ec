from __future__ import annotations

from pathlib import Path

import pytest

from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.engine.profiles import EngineProfile, fallback_precisions, find_profile, read_profile


@pytest.mark.parametrize(("gpu", "name"), [
    ("Orin", "orin"), ("NVIDIA Jetson AGX Orin", "orin"), ("NVIDIA Thor", "thor"), ("NVIDIA H200", "h200"),
    ("NVIDIA GeForce RTX 4090", "rtx"), ("NVIDIA A10", "default"), (None, "default")])
def test_profile_is_found_by_gpu(gpu: str | None, name: str) -> None:
    assert find_profile("auto", gpu).name == name


@pytest.mark.parametrize("name", ["orin", "thor", "rtx", "h200"])
def test_shipped_profiles_take_what_the_node_may_send(name: str) -> None:
    profile = find_profile(name)
    assert profile.match and profile.max_regions >= 64
    assert max(profile.graph_regions) <= profile.max_regions


def test_file_with_a_misspelt_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("max_region: 3\n")
    with pytest.raises(EngineError, match="mine.yaml.*max_region.*expected some of"):
        read_profile(tmp_path / "mine.yaml")


@pytest.mark.parametrize(("text", "reason"), [
    ("precision: fp4", "precision"), ("library: cuda", "library"), ("usual_regions: 65", "usual_regions"),
    ("graph_regions: [100]", "graph_regions"), ("max_frames: many", "max_frames is 'many', expected a whole number"),
    ("[1, 2]", "expected a mapping")])
def test_impossible_values_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(EngineError, match=reason):
        find_profile(str(tmp_path / "mine.yaml"))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(EngineError, match="'xavier' not found.*orin"):
        find_profile("xavier")


def test_shapes_in_the_key_follow_the_profile() -> None:
    assert EngineProfile("a").shapes == EngineProfile("b", timeout_s=1.0).shapes
    assert EngineProfile("a").shapes != EngineProfile("a", max_regions=65).shapes


@pytest.mark.parametrize(("first", "capability", "precisions"), [
    ("fp8", (8, 9), ["fp8", "int8", "fp16", "bf16", "fp32"]), ("fp8", (8, 7), ["int8", "fp16", "bf16", "fp32"]),
    ("fp16", (7, 5), ["fp16", "fp32"]), ("fp16", None, ["fp16", "bf16", "fp32"])])
def test_fallback_leads_to_safer_precisions(first: str, capability: tuple[int, int], precisions: list[str]) -> None:
    assert fallback_precisions(first, capability) == precisions
