"""Batches of conversations mean what each conversation means by itself."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from model_fixtures import sentencepiece_like, tiny_config  # noqa: E402

from ros_gpt4roi.model.checkpoint import LoadedModel, build_model  # noqa: E402
from training.collate import ConversationCollator  # noqa: E402
from training.data.record import Round  # noqa: E402
from training.data.sample import Sample  # noqa: E402


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A model whose tokenizer, like Llama's own, has no token for padding."""
    torch.manual_seed(0)
    tokenizer = sentencepiece_like()
    assert tokenizer.pad_token_id is None
    loaded = build_model(tiny_config(len(tokenizer)), tokenizer)
    loaded.model.eval()
    return loaded


def sample(loaded: LoadedModel, seed: int, regions: int, *rounds: Round) -> Sample:
    rng, size = np.random.default_rng(seed), loaded.config.preprocess.image_size
    corners = np.sort(rng.random((regions, 2, 2), np.float32), axis=1).reshape(regions, 4)
    return Sample(rng.integers(0, 256, (size, size, 3), np.uint8), corners, rounds)


def test_padding_changes_nothing_though_the_tokenizer_has_no_token_for_it(loaded):
    collate = ConversationCollator(loaded.prompts)
    short = sample(loaded, 1, 1, Round("What is <region1>?", "A mug."))
    long = sample(loaded, 2, 3, Round("Describe <region2>.", "The left of it."), Round("And <region3>?", "A red box."))
    batch = collate([short, long])
    assert len(set(batch["attention_mask"].sum(1).tolist())) == 2, "the rows differ in length: one is padded"
    with torch.no_grad():
        together = loaded.model(**batch).logits
        for row, alone in enumerate((short, long)):
            logits = loaded.model(**collate([alone])).logits[0]
            torch.testing.assert_close(together[row, :len(logits)], logits, rtol=1e-4, atol=1e-5)


def test_masks_are_what_the_network_sees_of_a_region(loaded):
    collate = ConversationCollator(loaded.prompts)
    boxes = sample(loaded, 3, 2, Round("What is <region1>?", "A mug."))
    bins = loaded.config.regions.roi_size
    masks = np.ones((2, bins, bins), np.float32)
    halved = dataclasses.replace(boxes, masks=masks * (np.arange(bins) < bins // 2))
    with torch.no_grad():
        whole, ones, half = (loaded.model(**collate([s])).logits
                             for s in (boxes, dataclasses.replace(boxes, masks=masks), halved))
    torch.testing.assert_close(whole, ones)
    assert not torch.allclose(whole, half, atol=1e-4)
