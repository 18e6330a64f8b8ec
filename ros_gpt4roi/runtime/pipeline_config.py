"""How a model is run: what `Pipeline.open` and the perception node's parameters have in common."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..configuration import ConfigError, Configuration, setting
from .format_choice import AUTO
from .language_format import FORMATS
from .language_stage import DecodingConfig
from .remote.options import ServerOptions, check_url
from .vision_stage import VisionOptions


@dataclass(frozen=True)
class PipelineConfig(Configuration):
    """How a model is run."""

    device: str = setting("auto", "Device; auto: cuda where it works, else cpu; or PyTorch's name of one.")
    vision: VisionOptions = VisionOptions()
    language_format: str = setting(AUTO, "Number format of the language model; auto: by its size, the device and "
                                         "the memory that is free.", choices=(AUTO, *FORMATS))
    adapters: tuple[Path, ...] = setting((), "LoRA folders that are loaded beside the language model, called by their "
                                             "folders' names.")
    adapter: str = setting("", "Name of the adapter that is used; empty: none. It may be set while the node works.")
    remote: str = setting("", "Address of a server that runs the model in the place of the local stages, such as "
                              "http://host:8000/v1: any that speaks OpenAI's API and takes pictures. Empty: none.")
    server: ServerOptions = ServerOptions()
    describe: str = setting("", "Question that describes a region, {region} stands for it; empty: the model's own.")
    description_tokens: int = setting(64, "Most tokens of a description.", at_least=1)
    answer_tokens: int = setting(128, "Most tokens of an answer.", at_least=1)
    question_characters: int = setting(2000, "Most characters of a question.", at_least=1)
    reuse_distance: float = setting(0.005, "A tracked region keeps its description while the cosine distance between "
                                           "its embedding and the described one is under this; 0: never.",
                                    at_least=0, at_most=2)
    reuse_age_s: float = setting(5.0, "Longest that a tracked region keeps its description.", at_least=0,
                                 unit="seconds")
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.describe and "{region}" not in self.describe:
            raise ConfigError(f"describe is {self.describe!r}, expected a question with {{region}} in it")
        if self.remote:
            if self.adapters or self.adapter:
                raise ConfigError(f"remote is {self.remote!r} and adapters are named, expected one of both: a server "
                                  "has its adapters itself, as models of their own names")
            object.__setattr__(self, "remote", check_url(self.remote))
