"""Attention supervision of a language model that has heads already: whose attention, and what it weighs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from attention_fixtures import attending, untrained
from test_collate import sample

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from model_fixtures import TEXTS  # noqa: E402

from ros_gpt4roi.model.checkpoint import LoadedModel  # noqa: E402
from ros_gpt4roi.model.config import IGNORED  # noqa: E402
from training.collate import AttentionCollator, ConversationCollator  # noqa: E402
from training.data.record import Round  # noqa: E402
from training.errors import RecipeError  # noqa: E402
from training.from_scratch.tokenizer import train_tokenizer  # noqa: E402
from training.objective import Conversation, ConversationLoss  # noqa: E402
from training.region_attention import NO_TARGET, best_head_loss  # noqa: E402

LAYERS = 1, 3


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    return untrained(train_tokenizer(TEXTS, 420, "compact"))


@pytest.fixture(scope="module")
def samples(loaded: LoadedModel) -> list:
    rounds = Round("Where is the mug?", "<region2>."), Round("And <region1>?", "Left of <region3>.")
    return [sample(loaded, 1, 3, *rounds),
            sample(loaded, 2, 2, Round("What is <region2>?", "A red mug."))]


def test_loss_is_that_of_the_heads_that_attend_best_and_no_head_serves_two_kinds(loaded):
    language = loaded.model.language.eval()
    out = attending(loaded)
    targets = torch.full((2, 3, 9), NO_TARGET)
    targets[0, 0, 7], targets[1, 0, 4], targets[1, 2, 8] = 2, 3, 0
    missed = [-out.attentions[layer].log() for layer in LAYERS]
    first, third = ([(of[0, :, 7, 2] + of[1, :, 4, 3]) / 2 for of in missed], [of[1, :, 8, 0] for of in missed])
    found = best_head_loss(language, out.hidden_states, targets, LAYERS)
    cheapest = [min(a[i] + b[j] for i in range(len(a)) for j in range(len(b)) if i != j) for a, b in zip(first, third)]
    torch.testing.assert_close(found, torch.stack(cheapest).mean(), rtol=1e-4, atol=1e-5)
    targets[1, 2, 8] = NO_TARGET
    targets[:, 2] = targets[:, 0]  # both would have the same head
    found = best_head_loss(language, out.hidden_states, targets, LAYERS)
    two = [costs.sort().values[:2].sum() for costs in first]
    torch.testing.assert_close(found, torch.stack(two).mean(), rtol=1e-4, atol=1e-5)
    assert best_head_loss(language, out.hidden_states, torch.full((2, 3, 9), NO_TARGET), LAYERS) == 0


def test_what_is_attended_to_comes_with_the_conversations(loaded, samples):
    collate = AttentionCollator(loaded.prompts)
    batch, plain = collate(samples), ConversationCollator(loaded.prompts)(samples)
    targets = batch.pop("attention_targets")
    assert batch.keys() == plain.keys() and targets.shape == (2, 5, batch["input_ids"].shape[1])
    listed = [row.tolist().index(index) for row in batch["region_index"] for index in (0, 1)]
    assert set(targets[1, 0].tolist()) == {NO_TARGET, listed[3]}, "the question's region2, not the list's own"
    # region2 and region3 are chosen by the first picture's answers, no region by the second's.
    assert len(targets[0, 3].unique()) == 3 and set(targets[1, 3].tolist()) == {NO_TARGET}


def test_a_region_is_compared_with_the_one_that_the_sentence_has_named_before(loaded):
    batch = AttentionCollator(loaded.prompts)([
        sample(loaded, 1, 3, Round("Where is the mug?", "From <region1>, <region3> is left. It is red."))])
    compared = batch["attention_targets"][0, 1].tolist()
    first_listed = batch["region_index"][0].tolist().index(0)
    places = [place for place, goal in enumerate(compared) if goal != NO_TARGET]
    text = loaded.tokenizer.decode(batch["input_ids"][0, [place + 1 for place in places]])
    assert {compared[place] for place in places} == {first_listed} and text.split() == ["is", "left."]


def test_a_region_that_is_to_be_found_and_one_that_the_question_names_are_looked_up_by_heads_of_their_own(loaded):
    batch = AttentionCollator(loaded.prompts)([
        sample(loaded, 1, 3, Round("What is near <region1>?", "From <region1>, <region3> is left."))])
    listed = batch["region_index"][0].tolist()
    found, copied = ({goal for goal in batch["attention_targets"][0, kind].tolist() if goal != NO_TARGET}
                     for kind in (3, 4))
    assert found == {listed.index(2)} and copied == {listed.index(0)}


@pytest.mark.parametrize("rows", [0, 1])
def test_attention_weighs_in_training_as_the_tokens_that_are_learned(loaded, samples, rows):
    batch = AttentionCollator(loaded.prompts)(samples)
    module, plain = ConversationLoss(loaded.model, rows, 0.5, LAYERS), ConversationLoss(loaded.model, rows)
    learned = int((batch["labels"][:, 1:] != IGNORED).sum())
    with torch.no_grad():
        expected = plain.eval()(**batch)["loss"]
        torch.testing.assert_close(module.eval()(**batch)["loss"], expected)
        attended = []
        for part in [[0, 1]] if rows == 0 else [[0], [1]]:
            of = {name: values[part] for name, values in batch.items()}
            targets = of.pop("attention_targets")
            out = loaded.model(**of, output_hidden_states=True)
            share = (of["labels"][:, 1:] != IGNORED).sum() / learned
            attended.append(best_head_loss(loaded.model.language, out.hidden_states, targets, LAYERS) * share)
        expected = expected + 0.5 * torch.stack(attended).sum()
        module.train()
        loaded.model.eval()  # its batch normalisation would see other batches
        torch.testing.assert_close(module(**batch)["loss"], expected)
        torch.testing.assert_close(module(**batch, num_items_in_batch=4 * learned)["loss"], expected / 4)


def test_a_few_steps_draw_attention_to_the_regions_spoken_of(loaded, samples):
    batch = AttentionCollator(loaded.prompts)(samples)
    module = ConversationLoss(loaded.model, attention=0.5, layers=LAYERS).train()
    optimizer = torch.optim.AdamW(loaded.model.language.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        losses.append(module(**batch)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("settings, said", [
    ({"attention": 0.1}, "expected both or none"), ({"attention_layers": [1]}, "expected both or none"),
    ({"attention": 0.1, "attention_layers": [1], "list_regions": False}, "regions can be looked up"),
    ({"attention": 0.1, "attention_layers": [1, 4]}, "layers from 0 to 3"),
])
def test_what_cannot_be_supervised_is_refused(loaded, samples, settings, said):
    with pytest.raises(RecipeError, match=said):
        Conversation(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
                     ).module(loaded.model, samples, Path())
