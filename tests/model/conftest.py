from __future__ import annotations

import pytest
import torch
from model_fixtures import TEXTS, sentencepiece_like, tiny_config
from published import draw, tiny_shapes, write_folder
from transformers import PreTrainedTokenizerFast

from ros_gpt4roi.model.config import ModelConfig
from training.from_scratch.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 420, "chatml")


@pytest.fixture
def config(tokenizer: PreTrainedTokenizerFast) -> ModelConfig:
    return tiny_config(len(tokenizer), tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return sentencepiece_like()


@pytest.fixture(scope="module")
def shapes(words):
    return tiny_shapes(tiny_config(0), len(words))


@pytest.fixture
def folders(tmp_path, words, shapes):
    """A published checkpoint and an encoder, with the values that are in them."""
    config = tiny_config(len(words))
    published, encoder = draw(shapes[0], 1), draw(shapes[1], 2, torch.float32)
    published["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    whole_clip = {**encoder, "logit_scale": torch.ones(()), "text_model.final_layer_norm.weight": torch.ones(16),
                  "vision_model.embeddings.position_ids": torch.arange(17)}
    write_folder(tmp_path / "published", published, "bin", tokenizer=words,
                 config={"model_type": "llava", "hidden_size": 32, "torch_dtype": "float16", "vocab_size": 7})
    write_folder(tmp_path / "clip", whole_clip, count=1,
                 config={"model_type": "clip", "vision_config": config.vision.encoder})
    return tmp_path, config, published, encoder
