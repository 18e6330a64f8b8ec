"""Guided attention: what points where, and that the loss speaks of the attention the model really has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from model_fixtures import TEXTS  # noqa: E402

from ros_gpt4roi.model.checkpoint import LoadedModel, build_model  # noqa: E402
from ros_gpt4roi.model.config import preset  # noqa: E402
from ros_gpt4roi.model.prompt import IGNORED  # noqa: E402
from training.objectives import answer_loss  # noqa: E402
from training.pointers import HEADS, NOWHERE, PointerFinder, pointer_loss  # noqa: E402
from training.tokenizer import train_tokenizer  # noqa: E402
from training.train import with_vocabulary  # noqa: E402


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    config = preset("tabletop")
    tokenizer = train_tokenizer(TEXTS, 420, config.prompt.template)
    loaded = build_model(with_vocabulary(config, tokenizer), tokenizer)
    loaded.model.eval()
    return loaded


def encode(loaded: LoadedModel, *rounds: tuple[str, str]):
    prompt = loaded.prompts.encode(rounds, 12, list_regions=True)
    return prompt, [loaded.tokenizer.decode([token]) for token in prompt.input_ids], PointerFinder(loaded.tokenizer)(prompt)


def test_names_and_what_is_said_of_them_point_to_the_list(loaded):
    prompt, _, pointers = encode(loaded, ("What is left of <region2>?", "<region11>, a red mug."), ("Is it small?", "Yes."))
    listed = {}
    for place, index in enumerate(prompt.region_index):
        if index >= 0:
            listed.setdefault(index, place)
    goals = {goal: [place for place, found in enumerate(pointers[0]) if found == goal] for goal in set(pointers[0])}
    # Names in the list itself come before what they would point to.
    assert set(goals) == {NOWHERE, listed[1], listed[10]}
    assert loaded.tokenizer.decode([prompt.input_ids[place] for place in goals[listed[1]]]) == "2"
    # The last digit, and the rest of the answer.
    said = loaded.tokenizer.decode([prompt.input_ids[place] for place in goals[listed[10]]])
    assert said == "1, a red mug.<|end|>"
    assert all(prompt.labels[place] != IGNORED for place in goals[listed[10]])
    (choice,) = (place for place, found in enumerate(pointers[4]) if found != NOWHERE)
    assert pointers[4][choice] == listed[10] and "region".endswith(loaded.tokenizer.decode([prompt.input_ids[choice]]))


def test_answers_look_at_the_regions_of_their_question(loaded):
    prompt, texts, pointers = encode(loaded, ("Is <region3> left of <region1>?", "No."), ("Why?", "Because."))
    learned = [place for place, label in enumerate(prompt.labels) if label != IGNORED]
    first = [place for place in learned if place < texts.index("<|end|>")]
    for head, goal in ((1, prompt.region_index.index(2)), (2, prompt.region_index.index(0))):
        pointing = {place: found for place, found in enumerate(pointers[head]) if found != NOWHERE}
        # From before its first token to before its end mark; the question "Why?" names no region.
        assert set(pointing.values()) == {goal} and set(pointing) == {place - 1 for place in (*first, first[-1] + 1)}


def test_a_comparison_looks_at_both_of_its_regions():
    question, answer = "Which is further left?", "From <region2>, <region3> is right and from <region3>, <region1> is left, so <region1>."
    texts = [question, answer] * 40
    tokenizer = train_tokenizer([t.replace("<", "").replace(">", "") for t in texts], 420, "compact")
    prompt, said, pointers = encode(build_model(with_vocabulary(preset("tabletop"), tokenizer), tokenizer), (question, answer))
    first = next(place for place, label in enumerate(prompt.labels) if label != IGNORED)
    places = [place for place, text in enumerate(said) if place >= first and text.strip() == "is"]
    assert [prompt.region_index[pointers[1][place]] for place in places] == [1, 2]  # compared with
    assert [prompt.region_index[pointers[0][place]] for place in places] == [2, 0]  # spoken of
    # A second comparison is with the one that the first has shown to be further: "right" is not what the question asks.
    again = next(place for place in range(places[0], len(said)) if said[place].strip() == "from")
    right = next(place for place in range(places[0], len(said)) if said[place].strip() == "right")
    assert pointers[3][again] == pointers[3][again + 1] == right and prompt.region_index[pointers[3][right]] < 0 and said[pointers[3][right]].strip() != "right"
    left = max(place for place, text in enumerate(said) if text.strip() == "left")
    so = next(place for place, text in enumerate(said) if text.strip() == "so")
    # Where one of two is chosen, both are looked at.
    assert [prompt.region_index[pointers[head][so + 1]] for head in (1, 0, 4)] == [2, 0, 0]
    assert pointers[3][so] == pointers[3][so + 1] == left and said[pointers[3][left]].strip() == "left"


@pytest.mark.parametrize("question, answer, agrees, decides", [
    ("Is <region2> a red mug?", "<region2> is a red mug, so yes.", {"red": True, "mug": True}, "mug"),
    ("Is <region2> a blue mug?", "<region2> is a red mug, so no.", {"red": False, "mug": True}, "red"),
    ("Is <region1> left of <region2>?", "<region1> is right of <region2>, so no.", {"right": False}, "right"),
    ("Are <region1> and <region2> the same size?", "<region1> is small and <region2> is small, so yes.",
     {"small": True}, "small"),
])
def test_words_that_agree_or_not_are_pointed_to(question, answer, agrees, decides):
    texts = [question, answer, " red blue mug right left small so and"] * 40
    tokenizer = train_tokenizer([t.replace("<", "").replace(">", "") for t in texts], 420, "compact")
    loaded = build_model(with_vocabulary(preset("tabletop"), tokenizer), tokenizer)
    prompt, said, pointers = encode(loaded, (question, answer))
    first = next(place for place, label in enumerate(prompt.labels) if label != IGNORED)
    last = {text.strip(): place for place, text in enumerate(said) if place >= first}
    for word, agreement in agrees.items():
        goal = pointers[3][last[word]]
        assert (said[goal].strip() == word) == agreement, (word, said[goal])
    assert pointers[3][last["so"]] == last[decides]


def test_loss_is_that_of_the_attention_in_the_model(loaded):
    language = loaded.model.language
    language.set_attn_implementation("eager")
    try:
        embeddings = torch.randn(2, 9, loaded.model.projector.out_features, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            out = language.base_model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True,
                                      output_attentions=True)
    finally:
        language.set_attn_implementation("sdpa")
    pointers = torch.full((2, HEADS, 9), NOWHERE)
    pointers[0, 0, 7], pointers[1, 3, 4] = 2, 3
    wanted = torch.stack([-layer[row, head, place, goal].log() for layer in out.attentions[1:]
                          for row, head, place, goal in ((0, 0, 7, 2), (1, 3, 4, 3))]).mean() * 2
    torch.testing.assert_close(pointer_loss(language, out.hidden_states, pointers), wanted, rtol=1e-4, atol=1e-5)
    assert pointer_loss(language, out.hidden_states, torch.full((2, HEADS, 9), NOWHERE)) == 0


def test_an_answer_weighs_as_the_root_of_its_length():
    hidden = torch.eye(6).unsqueeze(0)
    labels = torch.tensor([[IGNORED, 1, IGNORED, 2, 0, 1]])
    head = torch.nn.Linear(6, 3, bias=False)
    losses = torch.nn.functional.cross_entropy(head(hidden[0, [0, 2, 3, 4]]), labels[0, [1, 3, 4, 5]], reduction="none")
    weights = torch.tensor([1.0, 3 ** -0.5, 3 ** -0.5, 3 ** -0.5])
    torch.testing.assert_close(answer_loss(head, hidden, labels), (losses * weights).sum() / weights.sum())
