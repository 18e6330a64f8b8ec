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
from training.objective import ConversationLoss  # noqa: E402


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
        together = all_logits(loaded, batch)
        for row, alone in enumerate((short, long)):
            logits = all_logits(loaded, collate([alone]))[0]
            torch.testing.assert_close(together[row, :len(logits)], logits, rtol=1e-4, atol=1e-5)


def all_logits(loaded: LoadedModel, batch: dict) -> torch.Tensor:
    """Of every token, as where nothing is to be learned."""
    found: torch.Tensor = loaded.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return found


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9])
def test_the_loss_and_what_is_learned_from_it_is_that_of_all_logits_however_a_batch_is_parted(loaded, rows):
    samples = [sample(loaded, 1, 1, Round("What is <region1>?", "A mug.")),
               sample(loaded, 2, 3, Round("Describe <region2>.", "The left of it."), Round("And <region3>?", "A box.")),
               sample(loaded, 3, 2, Round("What is <region2>?", "A red box."))]
    batch, weight = ConversationCollator(loaded.prompts)(samples), loaded.model.regions.project.weight
    logits, labels = all_logits(loaded, batch)[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
    (gradient,) = torch.autograd.grad(expected, weight)
    objective = ConversationLoss(loaded.model, rows)
    loss = objective(**batch)["loss"]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], gradient, rtol=1e-4, atol=1e-6)
    # A step of several batches divides by the learned tokens of all.
    halved = objective(**batch, num_items_in_batch=2 * (labels != -100).sum())["loss"]
    torch.testing.assert_close(halved, expected / 2)


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
