"""What takes over from a model is another one."""
from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "runtime"))
from adapter_fixtures import write_adapter  # noqa: E402

from ros_gpt4roi.configuration import ConfigError  # noqa: E402
from ros_gpt4roi.model.checkpoint import load_checkpoint  # noqa: E402
from ros_gpt4roi.nodes.diagnostics import Problems  # noqa: E402
from ros_gpt4roi.nodes.model_opening import ModelOpener  # noqa: E402
from ros_gpt4roi.runtime.fallback import FallbackOptions, FallbackPipeline  # noqa: E402
from ros_gpt4roi.runtime.pipeline import PipelineConfig  # noqa: E402
from ros_gpt4roi.runtime.vision_stage import VisionOptions  # noqa: E402


def test_a_fallback_that_is_none_is_told_by_the_name_of_its_parameter(tiny_model: Path, tmp_path: Path) -> None:
    def open_with(fallback: str) -> None:
        config = PipelineConfig(vision=VisionOptions(backend="torch"))
        ModelOpener(config, fallback, FallbackOptions(), lambda text: None, Problems(print)).open(tiny_model)

    with pytest.raises(ConfigError, match="^fallback_model is 'nothing'; expected a folder or an installed model"):
        open_with("nothing")
    (tmp_path / "link").symlink_to(tiny_model)
    with pytest.raises(ConfigError, match="^fallback_model is .*, the model itself, expected a smaller one"):
        open_with(str(tmp_path / "link"))


def test_a_model_is_loaded_again_without_the_folders_of_its_adapters(tiny_model: Path, tmp_path: Path) -> None:
    """It keeps what it has read of them, and what was retrained may have been cleared away meanwhile."""
    adapter, fallback = tmp_path / "kitchen", shutil.copytree(tiny_model, tmp_path / "fallback")
    write_adapter(adapter, load_checkpoint(tiny_model).model.language)
    config = PipelineConfig(vision=VisionOptions(backend="torch"), adapters=(adapter,), adapter="kitchen")
    opener = ModelOpener(config, str(fallback), FallbackOptions(), lambda text: None, Problems(print))
    pipeline = opener.open(tiny_model)
    assert isinstance(pipeline, FallbackPipeline) and pipeline._reload is not None
    shutil.rmtree(adapter)
    again = pipeline._reload()
    again.adapters.adopt(pipeline.adapters)
    assert again.version_of(again.adapters.serving) == pipeline.version_of(pipeline.adapters.serving)
    assert "+kitchen@" in again.version_of(again.adapters.serving)
