"""A conversation about counterfactual attributes is held over vectors moved by just those attributes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe_fixtures import save_start

from ros_gpt4roi.model.checkpoint import LoadedModel, load_checkpoint
from training.data.record import Round
from training.data.sample import Sample
from training.from_scratch.augmentation import CounterfactualSample
from training.from_scratch.collate import SupervisedConversationCollator
from training.from_scratch.losses import AttributeEmbeddings, OracleConversationLoss, SupervisedConversationLoss

SEEN, COUNTERFACTUAL = np.array([[0, 1], [2, 0]]), np.array([[0, 1], [2, 3]])
CLASSES = (3, 4)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    loaded = load_checkpoint(save_start(tmp_path_factory.mktemp("start")))
    loaded.model.eval()
    return loaded


def batch_of(loaded: LoadedModel, counterfactual: np.ndarray | None) -> dict[str, torch.Tensor]:
    size = loaded.config.preprocess.image_size
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    boxes = np.array([[0.1, 0.2, 0.5, 0.6], [0.4, 0.4, 0.9, 0.8]], np.float32)
    rounds = [Round("What kind of object is <region2>?", "A mug.", "kind")]
    sample = Sample(image, boxes, rounds, SEEN) if counterfactual is None else \
        CounterfactualSample(image, boxes, rounds, SEEN, counterfactual=counterfactual)
    # A picture of one region beside it: its second row is padding.
    beside = Sample(image, boxes[:1], [Round("What colour is <region1>?", "Red.", "colour")], SEEN[:1])
    return SupervisedConversationCollator(loaded.prompts)([sample, beside])


def projected(loaded: LoadedModel, objective: torch.nn.Module,
              batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """What the extractor projects, [B, N, hidden], and the loss."""
    seen = []
    hook = loaded.model.regions.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            loss = objective(**batch)["loss"].item()
    finally:
        hook.remove()
    return seen[0], loss


def test_vectors_move_by_what_is_said_instead_of_what_is_seen(loaded):
    torch.manual_seed(0)
    embeddings = AttributeEmbeddings(loaded.model, CLASSES)
    plain, loss = projected(loaded, SupervisedConversationLoss(loaded.model, None), batch_of(loaded, None))
    objective = SupervisedConversationLoss(loaded.model, embeddings)
    assert not any(table.weight.requires_grad for table in embeddings.tables)
    same, same_loss = projected(loaded, objective, batch_of(loaded, None))
    torch.testing.assert_close(same, plain)
    assert same_loss == pytest.approx(loss)
    moved, moved_loss = projected(loaded, objective, batch_of(loaded, COUNTERFACTUAL))
    colours = embeddings.tables[1].weight
    expected = plain.clone()
    expected[0, 1] += colours[3] - colours[0]
    torch.testing.assert_close(moved, expected)
    assert moved_loss != pytest.approx(loss)


def test_oracle_features_are_those_spoken_of(loaded):
    torch.manual_seed(0)
    embeddings = AttributeEmbeddings(loaded.model, CLASSES)
    batch = batch_of(loaded, COUNTERFACTUAL)
    vectors, _ = projected(loaded, OracleConversationLoss(loaded.model, embeddings), batch)
    expected = embeddings.tables[0].weight[2] + embeddings.tables[1].weight[3]
    expected = expected + loaded.model.regions.position(batch["boxes"])[0, 1]
    torch.testing.assert_close(vectors[0, 1], expected)
