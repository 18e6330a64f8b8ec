"""Prompts: the published format token for token, what is learned, and what happens when a conversation is too long."""

from __future__ import annotations

import dataclasses

import pytest
from model_fixtures import TOKENIZERS, sentencepiece_like, tiny_config

from ros_gpt4roi.model.config import IGNORED, PromptConfig, preset
from ros_gpt4roi.model.prompt import SPECIAL_TOKENS, PromptBuilder, PromptError
from ros_gpt4roi.model.templates import TEMPLATES

ROUNDS = [("What is <region2>?", "A small red mug."), ("And <region1>?", "Left of <region2>, a bottle."),
          ("Compare <region2> and <box3>.", "é … both\nare  small ")]
SYSTEM = ("A chat between a curious human and an artificial intelligence assistant. "
          "The assistant gives helpful, detailed, and polite answers to the human's questions.")


def builder(tokenizer, template="gpt4roi", image_tokens=4, embeddings=1, **prompt) -> PromptBuilder:
    config = tiny_config(len(tokenizer), prompt=PromptConfig(template=template, **prompt))
    config = dataclasses.replace(config, regions=dataclasses.replace(config.regions, embeddings=embeddings))
    return PromptBuilder(tokenizer, config, image_tokens)


@pytest.fixture(scope="module", params=[(t, k) for t in TEMPLATES for k in TOKENIZERS], ids=lambda p: "-".join(p))
def prompts(request) -> PromptBuilder:
    name, kind = request.param
    return builder(TOKENIZERS[kind](name), name)


def learned_texts(prompts: PromptBuilder, encoded) -> list[str]:
    """The text of every run of learned tokens."""
    runs, run = [], []
    for token, label in zip([*encoded.input_ids, None], [*encoded.labels, IGNORED]):
        if label != IGNORED:
            assert label == token
            run.append(token)
        elif run:
            runs.append(prompts.tokenizer.decode(run, clean_up_tokenization_spaces=False))
            run = []
    return runs


def test_learns_exactly_the_answers_and_their_end_marks(prompts):
    encoded = prompts.encode(ROUNDS, 3)
    end = prompts.template.end
    texts = ["A small red mug.", "Left of region2, a bottle.", "é … both\nare  small "]
    assert [t.removeprefix(" ") for t in learned_texts(prompts, encoded)] == [t + end for t in texts]


def test_generation_prompt_is_the_beginning_of_the_training_sequence(prompts):
    whole = prompts.encode(ROUNDS, 3)
    for last, (question, _) in enumerate(ROUNDS):
        prompt = prompts.encode([*ROUNDS[:last], (question, None)], 3)
        length = len(prompt.input_ids)
        assert prompt.input_ids == whole.input_ids[:length]
        assert prompt.region_index == whole.region_index[:length]
        assert whole.labels[length] != IGNORED, "the answer's first token follows the prompt and is learned"


def test_published_format():
    prompts = PromptBuilder(sentencepiece_like(), preset("gpt4roi-7b"), 3)
    rounds = [("What is <region2>?", "A mug."), ("<region2> or <region1>?", "Both.")]
    text, learned, regions = prompts._render(rounds, 2, False, frozenset())
    assert text == (f"{SYSTEM}\n\n### Human: The <im_start><im_patch><im_patch><im_patch><im_end> provides an overview "
                    "of the picture.\nWhat is region2 <bbox>?\n### Assistant: A mug.\n### Human: region2 or region1 "
                    "<bbox>?\n### Assistant: Both.\n### ")
    assert [text[a:b] for a, b in learned] == [" A mug.\n###", " Both.\n###"]
    assert regions == [1, 0]


def test_published_preamble_lists_regions():
    prompts = PromptBuilder(sentencepiece_like(), preset("gpt4roi-7b"), 3)
    text = prompts._render([("What is region2?", None)], 2, True, frozenset())[0]
    assert text.endswith("picture.\nThere are region1 <bbox>,region2 <bbox> in the image, What is region2?"
                         "\n### Assistant:")


def test_other_formats():
    tokenizer = TOKENIZERS["bytes"]
    image = "<im_start><im_patch><im_end>\n"
    expected = {
        "vicuna_v1": SYSTEM.replace("human", "user") + f" USER: {image}Q ASSISTANT: A</s>USER: R ASSISTANT:",
        "chatml": f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n{image}Q<|im_end|>\n<|im_start|>assistant\nA"
                  "<|im_end|>\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n",
        "llama3": "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
                  f"<|start_header_id|>user<|end_header_id|>\n\n{image}Q<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
                  "<|start_header_id|>user<|end_header_id|>\n\nR<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\n"}
    for name, text in expected.items():
        system = "" if name == "vicuna_v1" else "S"
        prompts = builder(tokenizer(name), name, image_tokens=1, system=system)
        encoded = prompts.encode([("Q", "A"), ("R", None)], 0)
        assert prompts.tokenizer.decode(encoded.input_ids) == text


def test_region_tokens_carry_their_embeddings(tokenizer):
    prompts = builder(tokenizer, embeddings=2)
    encoded = prompts.encode(ROUNDS, 3, points={1})
    spliced = [(i, tokenizer.decode([t])) for t, i in zip(encoded.input_ids, encoded.region_index) if i >= 0]
    assert spliced == [(2, "<bbox>"), (3, "<bbox>"), (0, "<point>"), (1, "<point>"), (4, "<bbox>"), (5, "<bbox>")]
    assert encoded.input_ids.count(prompts.image_patch_id) == 4


def test_mentions_after_the_first_carry_none(tokenizer):
    encoded = builder(tokenizer).encode([("<region1> <region1> <box1> <point1>", None)], 1)
    tokens = [tokenizer.decode([t]) for t, i in zip(encoded.input_ids, encoded.region_index) if i >= 0]
    assert tokens == ["<bbox>", "<bbox>", "<point>"]


def test_answers_only_name_regions(tokenizer):
    prompts = builder(tokenizer)
    rounds = [("What is left of <region1>?", "<region2> and <region1>."), ("What is <region2>?", None)]
    encoded = prompts.encode(rounds, 2)
    assert [i for i in encoded.region_index if i >= 0] == [0, 1]
    assert learned_texts(prompts, encoded) == [" region2 and region1.\n###"]


def test_too_long_drops_whole_oldest_rounds_and_keeps_embeddings(prompts):
    rounds = [("Where is <region1>?", "There. " * 8), ("And <region2>?", "Here. " * 8),
              ("<region1> or <region2>?", None)]
    whole = prompts.encode(rounds, 2)
    assert whole.dropped_rounds == 0 and [i for i in whole.region_index if i >= 0] == [0, 1]
    expected = {0: [0, 1], 1: [1, 0], 2: [0, 1]}
    seen = set()
    for context in range(len(whole.input_ids), 10, -1):
        prompts.config = dataclasses.replace(prompts.config, context=context)
        try:
            short = prompts.encode(rounds, 2)
        except PromptError as error:
            assert f"expected at most {context}" in str(error)
            break
        seen.add(short.dropped_rounds)
        assert len(short.input_ids) <= context
        assert [i for i in short.region_index if i >= 0] == expected[short.dropped_rounds]
        assert short.input_ids.count(prompts.image_patch_id) == 4
        assert short == dataclasses.replace(prompts.encode(rounds[short.dropped_rounds:], 2),
                                            dropped_rounds=short.dropped_rounds)
    prompts.config = dataclasses.replace(prompts.config, context=2048)
    assert seen == {0, 1, 2}


def test_reserved_room_counts(tokenizer):
    prompts = builder(tokenizer)
    length = len(prompts.encode([("Q", None)], 0).input_ids)
    prompts = builder(tokenizer, context=length + 5)
    assert len(prompts.encode([("Q", None)], 0, reserve=5).input_ids) == length
    with pytest.raises(PromptError, match="6 of them reserved"):
        prompts.encode([("Q", None)], 0, reserve=6)


def test_listing_stops_at_the_limit(tokenizer):
    encoded = builder(tokenizer, max_regions=2).encode([("Q", None)], 5, list_regions=True)
    assert [i for i in encoded.region_index if i >= 0] == [0, 1]


@pytest.mark.parametrize("reference", ["<region3>", "<box0>", "<point9>"])
def test_unknown_region_is_refused(tokenizer, reference):
    with pytest.raises(PromptError, match=f"{reference}.*from 1 to 2"):
        builder(tokenizer).encode([(f"What is {reference}?", None)], 2)


def test_no_rounds_are_refused(tokenizer):
    with pytest.raises(PromptError, match="without rounds"):
        builder(tokenizer).encode([], 1)


@pytest.mark.parametrize("text", [*SPECIAL_TOKENS, "<region2>", "<box1>", "a ### Human: b", "<pad>"])
def test_markers_in_a_persons_text_are_refused(tokenizer, text):
    with pytest.raises(PromptError, match="reserved"):
        builder(tokenizer).check_user_text(f"what is {text}?")


@pytest.mark.parametrize("said", [*SPECIAL_TOKENS, "<region2>", "<box9>", "a ### Human: b", "<pad>", "<bb<bbox>ox>"])
def test_markers_that_the_model_spells_are_words_in_the_next_round(tokenizer, said):
    prompts = builder(tokenizer)
    assert prompts.as_said("region1 is < 2 cm # wide") == "region1 is < 2 cm # wide"
    plain, found = (prompts.encode([("what is <region1>?", text), ("why?", None)], 1, list_regions=True)
                    for text in ("a mug", prompts.as_said(said)))
    special = set(tokenizer.all_special_ids) | set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    assert [token for token in found.input_ids if token in special] == [
        token for token in plain.input_ids if token in special]
    prompts.check_user_text(prompts.as_said(said))


def test_ordinary_text_passes(tokenizer):
    builder(tokenizer).check_user_text("is region 2 < region 3? # yes <3")


def test_tokenizer_without_the_special_tokens_is_refused(tokenizer):
    bare = sentencepiece_like()
    with pytest.raises(PromptError, match=r"splits '<\|im_start\|>'"):
        builder(bare, "chatml")
