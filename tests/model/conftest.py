from __future__ import annotations

import pytest
from model_fixtures import TEXTS, tiny_config
from transformers import PreTrainedTokenizerFast

from ros_gpt4roi.model.config import ModelConfig
from training.from_scratch.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 420, "chatml")


@pytest.fixture
def config(tokenizer: PreTrainedTokenizerFast) -> ModelConfig:
    return tiny_config(len(tokenizer), tokenizer.pad_token_id)
