"""What takes over from a model is another one."""
from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")

from ros_gpt4roi.configuration import ConfigError  # noqa: E402
from ros_gpt4roi.nodes.diagnostics import Problems  # noqa: E402
from ros_gpt4roi.nodes.model_opening import ModelOpener  # noqa: E402
from ros_gpt4roi.runtime.fallback import FallbackOptions  # noqa: E402
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
