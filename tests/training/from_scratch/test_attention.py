"""Attention supervision: what attends where, and that the loss speaks of the attention the model really has."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "model"), str(Path(__file__).resolve().parents[1])]
from attention_fixtures import attending, untrained  # noqa: E402
from model_fixtures import TEXTS  # noqa: E402

from ros_gpt4roi.model.checkpoint import LoadedModel  # noqa: E402
from ros_gpt4roi.model.config import IGNORED  # noqa: E402
from ros_gpt4roi.model.prompt import PromptBuilder  # noqa: E402
from training.from_scratch.attention import HEADS, NO_TARGET, AttentionTargets, attention_loss  # noqa: E402
from training.from_scratch.losses import answer_loss  # noqa: E402
from training.from_scratch.tokenizer import train_tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    loaded = untrained(train_tokenizer(TEXTS, 420, "compact"))
    loaded.model.eval()
    return loaded


def encode(loaded: LoadedModel, *rounds: tuple[str, str]):
    prompt = loaded.prompts.encode(rounds, 12, list_regions=True)
    said = [loaded.tokenizer.decode([token]) for token in prompt.input_ids]
    return prompt, said, AttentionTargets(loaded.tokenizer)(prompt)


def test_names_and_what_is_said_of_them_attend_to_the_list(loaded):
    rounds = ("What is left of <region2>?", "<region11>, a red mug."), ("Is it small?", "Yes.")
    prompt, _, targets = encode(loaded, *rounds)
    listed = {}
    for place, index in enumerate(prompt.region_index):
        if index >= 0:
            listed.setdefault(index, place)
    goals = {goal: [place for place, found in enumerate(targets[0]) if found == goal] for goal in set(targets[0])}
    # Names in the list itself come before what they would attend to.
    assert set(goals) == {NO_TARGET, listed[1], listed[10]}
    assert loaded.tokenizer.decode([prompt.input_ids[place] for place in goals[listed[1]]]) == "2"
    # The last digit, and the rest of the answer.
    said = loaded.tokenizer.decode([prompt.input_ids[place] for place in goals[listed[10]]])
    assert said == "1, a red mug.<|end|>"
    assert all(prompt.labels[place] != IGNORED for place in goals[listed[10]])
    (choice,) = (place for place, found in enumerate(targets[4]) if found != NO_TARGET)
    assert targets[4][choice] == listed[10] and "region".endswith(loaded.tokenizer.decode([prompt.input_ids[choice]]))


def test_of_several_embeddings_the_first_is_attended_to(loaded):
    rounds = ("What is left of <region2>?", "<region11>, a red mug.")
    config = loaded.config
    several = dataclasses.replace(config, regions=dataclasses.replace(config.regions, embeddings=3))
    prompts = PromptBuilder(loaded.tokenizer, several, loaded.prompts.image_tokens)
    prompt = prompts.encode([rounds], 12, list_regions=True)
    targets = AttentionTargets(loaded.tokenizer, embeddings=3)(prompt)
    assert set(targets[0]) == {NO_TARGET, prompt.region_index.index(3), prompt.region_index.index(30)}
    assert set(targets[4]) == {NO_TARGET, prompt.region_index.index(30)}


def test_answers_look_at_the_regions_of_their_question(loaded):
    prompt, texts, targets = encode(loaded, ("Is <region3> left of <region1>?", "No."), ("Why?", "Because."))
    learned = [place for place, label in enumerate(prompt.labels) if label != IGNORED]
    first = [place for place in learned if place < texts.index("<|end|>")]
    for head, goal in ((1, prompt.region_index.index(2)), (2, prompt.region_index.index(0))):
        attending = {place: found for place, found in enumerate(targets[head]) if found != NO_TARGET}
        # From before its first token to before its end mark; the question "Why?" names no region.
        assert set(attending.values()) == {goal} and set(attending) == {place - 1 for place in (*first, first[-1] + 1)}


def test_a_comparison_looks_at_both_of_its_regions():
    question = "Which is further left?"
    answer = "From <region2>, <region3> is right and from <region3>, <region1> is left, so <region1>."
    texts = [question, answer] * 40
    tokenizer = train_tokenizer([t.replace("<", "").replace(">", "") for t in texts], 420, "compact")
    prompt, said, targets = encode(untrained(tokenizer), (question, answer))
    first = next(place for place, label in enumerate(prompt.labels) if label != IGNORED)
    places = [place for place, text in enumerate(said) if place >= first and text.strip() == "is"]
    assert [prompt.region_index[targets[1][place]] for place in places] == [1, 2]  # compared with
    assert [prompt.region_index[targets[0][place]] for place in places] == [2, 0]  # spoken of
    # A second comparison is with the one that the first has shown to be further: "right" is not what the question asks.
    again = next(place for place in range(places[0], len(said)) if said[place].strip() == "from")
    right = next(place for place in range(places[0], len(said)) if said[place].strip() == "right")
    assert targets[3][again] == targets[3][again + 1] == right
    assert prompt.region_index[targets[3][right]] < 0 and said[targets[3][right]].strip() != "right"
    left = max(place for place, text in enumerate(said) if text.strip() == "left")
    so = next(place for place, text in enumerate(said) if text.strip() == "so")
    # Where one of two is chosen, both are looked at.
    assert [prompt.region_index[targets[head][so + 1]] for head in (1, 0, 4)] == [2, 0, 0]
    assert targets[3][so] == targets[3][so + 1] == left and said[targets[3][left]].strip() == "left"


@pytest.mark.parametrize("question, answer, agrees, decides", [
    ("Is <region2> a red mug?", "<region2> is a red mug, so yes.", {"red": True, "mug": True}, "mug"),
    ("Is <region2> a blue mug?", "<region2> is a red mug, so no.", {"red": False, "mug": True}, "red"),
    ("Is <region1> left of <region2>?", "<region1> is right of <region2>, so no.", {"right": False}, "right"),
    ("Are <region1> and <region2> the same size?", "<region1> is small and <region2> is small, so yes.",
     {"small": True}, "small"),
])
def test_words_that_agree_or_not_are_attended_to(question, answer, agrees, decides):
    texts = [question, answer, " red blue mug right left small so and"] * 40
    tokenizer = train_tokenizer([t.replace("<", "").replace(">", "") for t in texts], 420, "compact")
    prompt, said, targets = encode(untrained(tokenizer), (question, answer))
    first = next(place for place, label in enumerate(prompt.labels) if label != IGNORED)
    last = {text.strip(): place for place, text in enumerate(said) if place >= first}
    for word, agreement in agrees.items():
        goal = targets[3][last[word]]
        assert (said[goal].strip() == word) == agreement, (word, said[goal])
    assert targets[3][last["so"]] == last[decides]


def test_loss_is_that_of_the_attention_in_the_model(loaded):
    language, out = loaded.model.language, attending(loaded)
    targets = torch.full((2, HEADS, 9), NO_TARGET)
    targets[0, 0, 7], targets[1, 3, 4] = 2, 3
    wanted = torch.stack([-layer[row, head, place, goal].log() for layer in out.attentions[1:]
                          for row, head, place, goal in ((0, 0, 7, 2), (1, 3, 4, 3))]).mean() * 2
    torch.testing.assert_close(attention_loss(language, out.hidden_states, targets), wanted, rtol=1e-4, atol=1e-5)
    assert attention_loss(language, out.hidden_states, torch.full((2, HEADS, 9), NO_TARGET)) == 0


def test_an_answer_weighs_as_the_root_of_its_length():
    hidden = torch.eye(6).unsqueeze(0)
    labels = torch.tensor([[IGNORED, 1, IGNORED, 2, 0, 1]])
    head = torch.nn.Linear(6, 3, bias=False)
    losses = torch.nn.functional.cross_entropy(head(hidden[0, [0, 2, 3, 4]]), labels[0, [1, 3, 4, 5]], reduction="none")
    weights = torch.tensor([1.0, 3 ** -0.5, 3 ** -0.5, 3 ** -0.5])
    torch.testing.assert_close(answer_loss(head, hidden, labels), (losses * weights).sum() / weights.sum())
