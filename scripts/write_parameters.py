"""Writes docs/parameters.md: every field of the nodes, engine profiles, model and training configurations.

    python scripts/write_parameters.py

It is generated from the configurations themselves; a test compares the committed page with them.
"""
from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "parameters.md"
sys.path.insert(0, str(ROOT))

from ros_gpt4roi.configuration import markdown_table  # noqa: E402
from ros_gpt4roi.engine.profiles import EngineProfile  # noqa: E402
from ros_gpt4roi.model.config import DeformableConfig, FocalConfig, ModelConfig, RoIAlignLiteConfig  # noqa: E402
from ros_gpt4roi.model.region_replay import RegionReplay  # noqa: E402
from ros_gpt4roi.nodes.perception import PerceptionParameters  # noqa: E402
from ros_gpt4roi.nodes.recorder import RecorderParameters  # noqa: E402
from ros_gpt4roi.nodes.sim_camera import CameraParameters  # noqa: E402
from ros_gpt4roi.nodes.speech import SpeechParameters  # noqa: E402
from training.data import ShardsOptions  # noqa: E402
from training.data.mixture import SOURCES  # noqa: E402
from training.data.source import Shared  # noqa: E402
from training.data.tabletop import TabletopOptions  # noqa: E402
from training.evaluation.public import EvaluationConfig  # noqa: E402
from training.recipe import Recipe, Stage  # noqa: E402

SOURCE_TABLES = "\n".join(f"A source with `type: {kind}`:\n\n{markdown_table(source.options_type)}"
                          for kind, source in SOURCES.items())

TEXT = f"""<!-- Written by scripts/write_parameters.py. -->
# Parameters

Every name, default and range of what can be configured. A wrong name or value is refused, or told, with the nearest
known name and what was expected.

## Node perception

They take effect when the node is configured. Give them in a ROS parameter file (`config/robot.yaml` is one to copy), by
`-p name:=value`, or with `ros2 param set` while the node is unconfigured; `ros2 param describe /perception NAME` shows
them on a running robot. A name that is unknown is told in the log and in `/diagnostics`.

{markdown_table(PerceptionParameters)}
## Node sim_camera

They are given at the node's start.

{markdown_table(CameraParameters)}
## Node speech

They are given at the node's start; [voice](voice.md) says what they are for.

{markdown_table(SpeechParameters)}
## Node recorder

They are given at the node's start; [recording](recording.md) says what they are for.

{markdown_table(RecorderParameters)}
## Model

The section `model` of a checkpoint's `config.json`; `python -m ros_gpt4roi.model assemble --config FILE`
takes sections of it from a JSON file. `regions.kind` chooses the region extractor; each kind has fields of its own.

{markdown_table(ModelConfig)}
With `regions.kind: roi_align_lite`, the fields are those of `roi_align` with other defaults:

{markdown_table(RoIAlignLiteConfig)}
With `regions.kind: deformable`:

{markdown_table(DeformableConfig)}
Where `focal` is a mapping:

{markdown_table(FocalConfig)}
The field `ros_gpt4roi.regions` of a Qwen3-VL's `config.json`, which `assemble --from` writes:

{markdown_table(RegionReplay)}
## Engine profile

A YAML file, `engines/*.yaml` or one that `pipeline.vision.engine.profile` names.

{markdown_table(EngineProfile)}
## Training recipe

A YAML file, `training/configs/*.yaml`.

{markdown_table(Recipe)}
Each of `stages`:

{markdown_table(Stage)}
## Training data

The sections `train` and `validation` of a recipe. With `kind: tabletop`:

{markdown_table(TabletopOptions)}
With `kind: shards`:

{markdown_table(ShardsOptions)}
With `kind: mixture`, beside `sources`, the list of data sets:

{markdown_table(Shared)}
{SOURCE_TABLES}
## Evaluation

A YAML file, `training/configs/evaluation*.yaml`.

{markdown_table(EvaluationConfig)}"""

if __name__ == "__main__":
    PAGE.write_text(TEXT, encoding="utf-8")
    print(PAGE)
