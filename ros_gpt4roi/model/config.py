"""One dataclass tree that describes a model; presets by name.

Every size of the network is stated here and nowhere else. The encoder and the language model are described by the
dictionary form of their transformers configuration, so any architecture transformers knows can take either place.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from ..configuration import ConfigError, Configuration, setting

__all__ = ["IGNORED", "ConfigError", "DeformableConfig", "FocalConfig", "LanguageConfig", "ModelConfig", "PointConfig",
           "PreprocessConfig", "PromptConfig", "RegionConfig", "RoIAlignConfig", "RoIAlignLiteConfig", "VisionConfig",
           "preset"]

Regions = TypeVar("Regions", bound="RegionConfig")

#: The label of what is not learned from, as the cross-entropy of PyTorch has it.
IGNORED = -100
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PreprocessConfig(Configuration):
    """How a camera frame becomes the network's input (see `preprocess.py`)."""

    # Resized without keeping the aspect ratio, a normalised box means the same place before and after.
    image_size: int = setting(224, "Side of the square input that frames are resized to.",
                              at_least=1, at_most=8192, unit="pixels")
    interpolation: str = setting("area", "OpenCV's name of the resampling filter.", choices=("area", "linear", "cubic"))
    mean: tuple[float, float, float] = setting(CLIP_MEAN, "Mean of each RGB channel, of values in 0..1.")
    std: tuple[float, float, float] = setting(CLIP_STD, "Standard deviation of each RGB channel.")

    @property
    def typical_frame(self) -> tuple[int, int]:
        """Height and width of a frame to warm up with."""
        return self.image_size, self.image_size


@dataclass(frozen=True)
class VisionConfig(Configuration):
    """The image encoder."""

    encoder: dict[str, Any] = setting({}, "A transformers configuration with `model_type` (clip_vision_model, "
                                          "siglip_vision_model, or a backbone such as resnet, convnext, swin).")
    levels: tuple[int | str, ...] = setting(
        (-11, -8, -5, -2), "Where the region features come from, finest first: indices of a ViT's hidden states (0 is "
                           "the embedding, negative ones count from the end) or stage names of a backbone.")
    tokens: int | str = setting(-2, "The level that the image tokens come from, named likewise.")
    token_grid: int | None = setting(None, "Image tokens are averaged to this many a side, for a shorter prompt; null: "
                                           "as many as the level has.", at_least=1, at_most=1024)
    interpolate_positions: bool = setting(False, "Resize a ViT's position embeddings where the input size is not the "
                                                 "one that it was made for.")


@dataclass(frozen=True)
class RegionConfig(Configuration):
    """What every region extractor has: feature levels and a box in, one or several embeddings out."""

    kind: str = setting(dataclasses.MISSING, "Which region extractor.")
    roi_size: int = setting(14, "Bins a side, of RoIAlign and of the grid in which masks are weighed.",
                            at_least=1, at_most=256)
    hidden: int = setting(1024, "Width of the embedding before it is projected to the language model.",
                          at_least=1, at_most=65536)
    position_hidden: int = setting(256, "Width of the MLP that the box's place goes through.",
                                   at_least=1, at_most=65536)
    embeddings: int = setting(1, "Embeddings a region; the published model has 1.", at_least=1, at_most=256)
    place: float = setting(0.0, "Length of what each coordinate of a box's middle, at the image's edge, and a width "
                                "or height of half the image add to an embedding before training, so that a small "
                                "language model can compare places; 0: nothing is added, as published.",
                           at_least=0, at_most=1e6)

    def converted(self, kind: type[Regions], **changes: Any) -> Regions:
        """A region extractor of another kind, with this one's values wherever both have the field.

        Args:
            kind: The other kind's class.
            **changes: Fields of the result.
        """
        known = {item.name for item in dataclasses.fields(kind)} - {"kind"}
        shared = {name: value for name, value in dataclasses.asdict(self).items() if name in known}
        return kind(**{**shared, **changes})


@dataclass(frozen=True)
class RoIAlignConfig(RegionConfig):
    """Feature pyramid and RoIAlign, as published."""

    kind: str = setting("roi_align", "Feature pyramid and RoIAlign.", choices=("roi_align",))
    channels: int = setting(1024, "Width of the pyramid.", at_least=4, at_most=65536)
    scales: tuple[float, ...] | None = setting((8, 4, 2, 1), "Factor by which each level is resized before fusion; "
                                                             "null: as it comes.", more_than=0, at_most=64)
    fusion_rounds: int = setting(5, "Rounds of cross-level 3×3 convolution.", at_least=0, at_most=64)
    groups: int = setting(64, "Groups of the rounds' GroupNorm.", at_least=1, at_most=65536)
    samples: int = setting(2, "Sampling points a bin and axis.", at_least=1, at_most=64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % 4 or self.channels % self.groups:
            raise ConfigError(f"channels is {self.channels}, expected a multiple of 4 and of groups={self.groups}")


@dataclass(frozen=True)
class RoIAlignLiteConfig(RoIAlignConfig):
    """The same at a fiftieth of the cost: a quarter of the channels, no map beyond 64×64 for the published encoder."""

    kind: str = setting("roi_align_lite", "The same, smaller.", choices=("roi_align_lite",))
    channels: int = setting(256, "Width of the pyramid.", at_least=4, at_most=65536)
    scales: tuple[float, ...] | None = setting((4, 2, 1, 1), "As of roi_align.", more_than=0, at_most=64)
    groups: int = setting(32, "As of roi_align.", at_least=1, at_most=65536)


@dataclass(frozen=True)
class DeformableConfig(RegionConfig):
    """Multi-scale deformable attention."""

    kind: str = setting("deformable", "Multi-scale deformable attention.", choices=("deformable",))
    layers: int = setting(3, "Layers of attention.", at_least=1, at_most=64)
    heads: int = setting(8, "Heads of the attention.", at_least=1, at_most=1024)
    points: int = setting(4, "Points a head and level.", at_least=1, at_most=1024)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads:
            raise ConfigError(f"hidden is {self.hidden}, expected a multiple of heads={self.heads}")


@dataclass(frozen=True)
class FocalConfig(Configuration):
    """The focal crop (see `focal.py`)."""

    scale: float = setting(2.0, "Side of the crop, in sides of the region.", at_least=1)
    size: int = setting(0, "Side of the crop as the encoder sees it; 0: that of the image.",
                        at_least=0, at_most=8192, unit="pixels")


@dataclass(frozen=True)
class PointConfig(Configuration):
    """Points as regions."""

    size: float = setting(0.05, "Side of the box that stands for a point, as a part of the frame's shorter side.",
                          more_than=0, at_most=1)


@dataclass(frozen=True)
class LanguageConfig(Configuration):
    """The language model."""

    model: dict[str, Any] = setting({}, "A transformers configuration of a causal language model, with `model_type`.")


@dataclass(frozen=True)
class PromptConfig(Configuration):
    """The wording around a conversation (see `prompt.py`)."""

    template: str = setting("gpt4roi", "Name of the conversation format.")
    system: str = setting("", "System text; empty: the format's own.")
    image_text: str = setting("{image}\n", "Opens the first question; {image} becomes the image tokens.")
    preamble: str = setting("{regions}\n", "Follows it where the regions are listed; {regions} becomes the list.")
    separator: str = setting(", ", "Stands between the regions of that list.")
    describe: str = setting("Describe {region}.", "Question that asks for a description of {region}.")
    number_regions: bool = setting(False, "Add a learned vector of its number to a listed region's embedding, so that "
                                          "a small language model need not infer from the order which name is whose.")
    max_regions: int = setting(32, "Most regions that a prompt lists.", at_least=1, at_most=4096)
    context: int = setting(2048, "Longest prompt and answer together, in tokens.", at_least=1, at_most=1048576)


@dataclass(frozen=True)
class ModelConfig(Configuration):
    """A whole model. `to_dict` and `build` are the layout of a checkpoint's config.json."""

    vision: VisionConfig = VisionConfig()
    regions: RoIAlignConfig | RoIAlignLiteConfig | DeformableConfig = RoIAlignConfig()
    focal: FocalConfig | None = setting(None, "The focal crop beside the region extractor; null: none.")
    points: PointConfig = PointConfig()
    language: LanguageConfig = LanguageConfig()
    prompt: PromptConfig = PromptConfig()
    preprocess: PreprocessConfig = PreprocessConfig()

    def to_dict(self) -> dict[str, Any]:
        """The tree as nested dictionaries."""
        return dataclasses.asdict(self)


def preset(name: str) -> ModelConfig:
    """The description of a model by its name.

    Args:
        name: "gpt4roi-7b" (as published) or "gpt4roi-7b-lite" (the same with a cheaper region extractor).

    Raises:
        ConfigError: the name is unknown.
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
    """The same with a cheaper region extractor."""
    return dataclasses.replace(_gpt4roi_7b(), regions=RoIAlignLiteConfig())


_PRESETS = {"gpt4roi-7b": _gpt4roi_7b, "gpt4roi-7b-lite": _gpt4roi_7b_lite}
