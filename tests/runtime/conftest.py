"""A tiny real model for the runtime's tests: random weights, but every part is the one that runs on the robot."""
from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from chat_server import ChatServer  # noqa: E402
from model_fixtures import TEXTS, tiny_config  # noqa: E402

from ros_gpt4roi.model.checkpoint import LoadedModel, build_model, save_checkpoint  # noqa: E402
from ros_gpt4roi.model.config import ModelConfig  # noqa: E402
from ros_gpt4roi.runtime.language_stage import DecodingConfig  # noqa: E402
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig  # noqa: E402
from ros_gpt4roi.runtime.types import Frame, Region  # noqa: E402
from training.from_scratch.tokenizer import train_tokenizer  # noqa: E402


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 420, "chatml")


@pytest.fixture(scope="session")
def config(tokenizer: PreTrainedTokenizerFast) -> ModelConfig:
    config = tiny_config(len(tokenizer), tokenizer.pad_token_id)
    # 64 inputs a layer, so that the int4 groups fit.
    language = dataclasses.replace(config.language, model={**config.language.model, "hidden_size": 64,
                                                           "intermediate_size": 128, "tie_word_embeddings": True})
    prompt = dataclasses.replace(config.prompt, template="chatml", max_regions=16)
    return dataclasses.replace(config, language=language, prompt=prompt)


@pytest.fixture(scope="session")
def loaded(config: ModelConfig, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    torch.manual_seed(7)
    loaded = build_model(config, tokenizer)
    # Random weights of the usual size give nearly the same logits everywhere: spread them, so that texts differ.
    with torch.no_grad():
        for parameter in loaded.model.language.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    loaded.model.eval()
    return loaded


@pytest.fixture(scope="session")
def checkpoint(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_checkpoint(loaded.model, loaded.tokenizer, folder)
    return folder


@pytest.fixture(name="server")
def server_fixture() -> Iterator[ChatServer]:
    """A server of OpenAI's API that writes the same text to everybody."""
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def make_pipeline(loaded: LoadedModel) -> Callable[..., Pipeline]:
    """A pipeline over the tiny model. Keywords are PipelineConfig's or DecodingConfig's."""
    def make(**settings) -> Pipeline:
        of_decoding = {field.name for field in dataclasses.fields(DecodingConfig)}
        decoding = DecodingConfig(**{name: value for name, value in settings.items() if name in of_decoding})
        settings = {name: value for name, value in settings.items() if name not in of_decoding}
        defaults = {"description_tokens": 12, "answer_tokens": 12, "reuse_distance": 0.0}
        return Pipeline(loaded, PipelineConfig(**{**defaults, **settings}, decoding=decoding))
    return make


@pytest.fixture
def make_frame() -> Callable[..., Frame]:
    """A frame of noise with regions. seed: of the noise and the boxes; ids: the regions' names, or their number."""
    def make(ids: int | list[str] = 3, seed: int = 0, stamp_ns: int = 0) -> Frame:
        random = np.random.default_rng(seed)
        names = [str(i + 1) for i in range(ids)] if isinstance(ids, int) else ids
        corners = random.uniform(0, 30, (len(names), 2))
        sizes = random.uniform(5, 18, (len(names), 2))
        regions = tuple(Region(name, (*corner.tolist(), *(corner + size).tolist()), score=0.5)
                        for name, corner, size in zip(names, corners, sizes))
        return Frame(random.integers(0, 256, (48, 48, 3), dtype=np.uint8), regions, stamp_ns, "camera")
    return make
