"""One dataclass tree that describes a model; presets by name.

Every size of the network is stated here and nowhere else. The encoder and the language model are described by the
dictionary form of their transformers configuration, so any architecture transformers knows can take either place.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ConfigError(ValueError):
    """A model description that cannot be built; the message names the field, its value and what was expected."""


@dataclass(frozen=True)
class PreprocessConfig:
    """How a camera frame becomes the network's input (see `preprocess.py`).

    image_size: side of the square input, pixels; frames are resized to it without keeping their aspect ratio, so
        a normalised box means the same place before and after.
    interpolation: OpenCV's name of the resampling filter, "area", "linear" or "cubic".
    mean, std: per RGB channel, of values in 0..1; applied inside the network.
    """

    image_size: int = 224
    interpolation: str = "area"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"preprocess.image_size is {self.image_size}, expected at least 1 pixel")
        if self.interpolation not in ("area", "linear", "cubic"):
            raise ConfigError(f"preprocess.interpolation is {self.interpolation!r}, expected area, linear or cubic")


@dataclass(frozen=True)
class VisionConfig:
    """The image encoder.

    encoder: a transformers configuration as a dictionary with `model_type` ("clip_vision_model",
        "siglip_vision_model", or a backbone such as "resnet", "convnext", "swin").
    levels: where the region features come from, finest first: indices into a ViT's hidden states (0 is the embedding,
        negative counts from the end) or stage names of a backbone ("stage1", …).
    tokens: the level the image tokens come from, named likewise.
    token_grid: image tokens are averaged to this many a side; None keeps the level's own grid.
    interpolate_positions: resize a ViT's position embeddings where the input size is not the one it was made for.
    """

    encoder: dict[str, Any] = field(default_factory=dict)
    levels: tuple[int | str, ...] = (-11, -8, -5, -2)
    tokens: int | str = -2
    token_grid: int | None = None
    interpolate_positions: bool = False


@dataclass(frozen=True)
class RegionConfig:
    """The region extractor: feature levels and a box in, one or several embeddings out.

    kind: "roi_align" (feature pyramid and RoIAlign), "roi_align_lite" (the same, meant for smaller sizes) or
        "deformable" (multi-scale deformable attention).
    channels: width of the pyramid. scales: each level is resized by this factor before fusion (None: as it comes).
    fusion_rounds, groups: rounds of cross-level 3×3 convolution, and groups of their GroupNorm.
    roi_size, samples: bins a side and sampling points a bin and axis of RoIAlign.
    hidden: width of the embedding before it is projected to the language model. position_hidden: of the box's MLP.
    embeddings: embeddings a region (the published model: 1).
    layers, heads, points: of the deformable extractor only, which in turn has no use for the pyramid's fields.
    point_size: side of the box that stands for a point, as a part of the frame's shorter side.
    focal: side of the focal crop in sides of the region (see `focal.py`), 0 for none; focal_size: of the crop as the
        encoder sees it, pixels, 0 for that of the image.
    """

    kind: str = "roi_align"
    channels: int = 1024
    scales: tuple[float, ...] | None = (8, 4, 2, 1)
    fusion_rounds: int = 5
    groups: int = 64
    roi_size: int = 14
    samples: int = 2
    hidden: int = 1024
    position_hidden: int = 256
    embeddings: int = 1
    layers: int = 3
    heads: int = 8
    points: int = 4
    point_size: float = 0.05
    focal: float = 0.0
    focal_size: int = 0

    def __post_init__(self) -> None:
        for name in ("channels", "groups", "roi_size", "samples", "hidden", "position_hidden", "embeddings", "layers",
                     "heads", "points"):
            if getattr(self, name) < 1:
                raise ConfigError(f"regions.{name} is {getattr(self, name)}, expected at least 1")
        if self.channels % 4 or self.channels % self.groups:
            raise ConfigError(f"regions.channels is {self.channels}, expected a multiple of 4 and of "
                              f"groups={self.groups}")
        if not 0 < self.point_size <= 1:
            raise ConfigError(f"regions.point_size is {self.point_size}, expected more than 0 and at most 1")
        if self.focal != 0 and self.focal < 1:
            raise ConfigError(f"regions.focal is {self.focal}, expected 0 (no focal crop) or at least 1")


@dataclass(frozen=True)
class LanguageConfig:
    """The language model: a transformers causal language model's configuration as a dictionary with `model_type`."""

    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptConfig:
    """The wording around a conversation (see `prompt.py`).

    template: name of the conversation format. system: its system text.
    image_text: opens the first question; `{image}` becomes the image tokens.
    preamble: follows it where the regions of the frame are listed; `{regions}` becomes the list.
    separator: stands between the regions of that list.
    describe: the question that asks for a region's description; `{region}` becomes its reference.
    repeat_embeddings: every mention of a region in a question carries its embedding, not only the first (published).
    number_regions: a learned vector of its number is added to a listed region's embedding, so that a small language model
        need not infer from the order of tokens which name belongs to which region (published: not).
    max_regions: most regions one prompt lists. context: longest prompt and answer together, tokens.
    """

    template: str = "gpt4roi"
    system: str = ""
    image_text: str = "{image}\n"
    preamble: str = "{regions}\n"
    separator: str = ", "
    describe: str = "Describe {region}."
    repeat_embeddings: bool = False
    number_regions: bool = False
    max_regions: int = 32
    context: int = 2048


@dataclass(frozen=True)
class ModelConfig:
    """A whole model. `to_dict` and `from_dict` are the layout of a checkpoint's config.json."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """The tree from nested dictionaries. Raises ConfigError that names an unknown section or field."""
        sections = {f.name: f.default_factory for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - set(sections))
        if unknown:
            raise ConfigError(f"unknown section {unknown} in a model config, expected some of {sorted(sections)}")
        return cls(**{name: _section(sections[name], name, data.get(name, {})) for name in sections})


def _section(section: type, name: str, values: dict[str, Any]) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"section {name} of a model config is {values!r}, expected a mapping")
    known = {f.name for f in dataclasses.fields(section)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"unknown field {unknown} in section {name} of a model config, "
                          f"expected some of {sorted(known)}")
    # JSON and YAML have no tuples.
    return section(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def preset(name: str) -> ModelConfig:
    """The description of a model by name: "tabletop" (the embedded default), "gpt4roi-7b" (as published) or
    "gpt4roi-7b-lite" (the same with a cheaper region extractor).

    Raises ConfigError for an unknown name.
    """
    try:
        return _PRESETS[name]()
    except KeyError:
        raise ConfigError(f"unknown model preset {name!r}, expected one of {sorted(_PRESETS)}") from None


def _gpt4roi_7b() -> ModelConfig:
    """GPT4RoI-7B: CLIP ViT-L/14 at 224 px and Llama 7B (arXiv 2307.03601)."""
    return ModelConfig(
        vision=VisionConfig(encoder=dict(
            model_type="clip_vision_model", hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
            num_attention_heads=16, image_size=224, patch_size=14, hidden_act="quick_gelu", projection_dim=768)),
        language=LanguageConfig(model=dict(
            model_type="llama", hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=32, vocab_size=32000, max_position_embeddings=2048,
            rms_norm_eps=1e-6, tie_word_embeddings=False)),
        # The first question opens with a sentence about the image; frames with many regions list them in another.
        prompt=PromptConfig(template="gpt4roi", image_text="The {image} provides an overview of the picture.\n",
                            preamble="There are {regions} in the image, ", separator=",",
                            describe="Could you describe {region} in the picture in detail?"),
        # The published training resizes its region data bilinearly and without keeping the aspect ratio.
        preprocess=PreprocessConfig(interpolation="linear"),
    )


def _gpt4roi_7b_lite() -> ModelConfig:
    """The same with a region extractor of a tenth of the cost: a quarter of the channels, no map finer than 64×64."""
    return dataclasses.replace(_gpt4roi_7b(), regions=RegionConfig(
        kind="roi_align_lite", channels=256, scales=(4, 2, 1, 1), groups=32))


def _tabletop() -> ModelConfig:
    """The embedded default: a small residual network and a small Llama, trained from nothing on rendered scenes."""
    return ModelConfig(
        vision=VisionConfig(
            encoder=dict(model_type="resnet", embedding_size=48, hidden_sizes=[48, 96, 192, 256], depths=[2, 2, 2, 2],
                         layer_type="basic", hidden_act="relu"),
            levels=("stage1", "stage2", "stage3", "stage4"), tokens="stage4"),
        regions=RegionConfig(channels=96, scales=None, fusion_rounds=1, groups=8, roi_size=7, hidden=256,
                             position_hidden=128),
        language=LanguageConfig(model=dict(
            model_type="llama", hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8,
            num_key_value_heads=8, vocab_size=1024, max_position_embeddings=1024, initializer_range=0.06,
            tie_word_embeddings=True)),
        prompt=PromptConfig(template="compact", image_text="{image}", preamble="{regions}\n",
                            describe="What is {region}?", number_regions=True,
                            max_regions=16, context=1024),
        preprocess=PreprocessConfig(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )


_PRESETS = {"gpt4roi-7b": _gpt4roi_7b, "gpt4roi-7b-lite": _gpt4roi_7b_lite, "tabletop": _tabletop}
