"""The generator by itself, over a tiny Llama. The reference is one full forward for every token."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ros_gpt4roi.runtime.generator import Generator, sample
from ros_gpt4roi.runtime.kv_cache import Prompt
from ros_gpt4roi.runtime.request import Sampling, Sequence
from ros_gpt4roi.runtime.types import Status

VOCABULARY, CONTEXT, STOP, NEVER = 50, 96, 3, 7
NOT_FINITE = 49  # the prompt token whose embedding is not a number


@pytest.fixture(scope="module")
def language() -> LlamaForCausalLM:
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, tie_word_embeddings=False)).eval()
    with torch.no_grad():  # spread, so that texts differ
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model


@pytest.fixture
def make(language: LlamaForCausalLM) -> Callable[..., Generator]:
    def generator(**how) -> Generator:
        settings = {"stop_ids": frozenset({STOP}), "suppress_tokens": [NEVER], "context": CONTEXT, "max_rows": 4,
                    "priority_rows": 1, "draft_tokens": 4, "cache_bytes": 1 << 20}
        return Generator(language, **(settings | how))
    return generator


@pytest.fixture
def ask(language: LlamaForCausalLM) -> Callable[..., Sequence]:
    def sequence(ids: list[int], tokens: int = 10, vision: str = "v", **how) -> Sequence:
        def embed() -> torch.Tensor:
            embeddings = language.get_input_embeddings()(torch.tensor(ids)).detach().clone()
            embeddings[torch.tensor(ids) == NOT_FINITE] = torch.nan
            return embeddings
        return Sequence(Prompt.of(ids, [-1] * len(ids), vision), embed, max_new_tokens=tokens, **how)
    return sequence


@pytest.fixture
def reference(language: LlamaForCausalLM) -> Callable[..., list[int]]:
    def full_runs(ids: list[int], tokens: int = 10) -> list[int]:
        generated: list[int] = []
        with torch.inference_mode():
            while len(generated) < tokens and len(ids) + len(generated) < CONTEXT:
                logits = language(torch.tensor([[*ids, *generated]]), use_cache=False).logits[0, -1]
                logits[NEVER] = -torch.inf
                token = int(logits.argmax())
                if token == STOP:
                    break
                generated.append(token)
        return generated
    return full_runs


def run(generator: Generator, limit: int = 500) -> None:
    for _ in range(limit):
        if not generator.busy:
            return
        generator.step()
    pytest.fail(f"the generator is busy after {limit} steps")


def random_ids(random: np.random.Generator, least: int = 1, most: int = 30) -> list[int]:
    return random.integers(8, 40, int(random.integers(least, most))).tolist()


@pytest.mark.parametrize("onnxruntime", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_joins_and_leaves_every_text_is_that_of_a_full_run(seed: int, onnxruntime: bool, make: Callable,
                                                                    ask: Callable, reference: Callable) -> None:
    random = np.random.default_rng(seed)
    generator = make(onnxruntime=onnxruntime, cache_bytes=int(random.choice([0, 4000, 1 << 20])),
                   draft_tokens=int(random.choice([0, 3, 8])))
    stem, texts, cancelled = random_ids(random, 5), [], set()
    for number in range(25):
        ids = [*(stem if random.random() < 0.6 else []), *random_ids(random)]
        ids, tokens = ids[:CONTEXT - 1], int(random.integers(1, 20))
        expected = reference(ids, tokens)
        draft = tuple(expected) if random.random() < 0.4 else tuple(random_ids(random))
        cache_key = number if random.random() < 0.3 else None
        sequence = ask(ids, tokens, draft=draft, cache_key=cache_key)
        generator.add([sequence], priority=bool(random.random() < 0.3))
        texts.append((sequence, expected))
        for _ in range(int(random.integers(0, 4))):
            generator.step()
        if random.random() < 0.2:
            sequence.end(Status.CANCELED)
            cancelled.add(sequence)
        assert generator.live_rows <= 4
    run(generator)
    for sequence, expected in texts:
        if sequence.status is Status.CANCELED:
            assert sequence in cancelled and sequence.generated == expected[:len(sequence.generated)]
        else:
            assert sequence.status is Status.OK and sequence.generated == expected
            assert len(sequence.probabilities) == len(expected)
    assert generator.prefixes.bytes <= generator.prefixes.max_bytes


def test_a_stop_that_is_never_reached_ends_at_the_limit_and_at_the_context(make: Callable, ask: Callable,
                                                                          reference: Callable) -> None:
    generator = make(stop_ids=frozenset())
    short, endless = ask([10, 11, 12], 7), ask([20, 21], 100_000)
    generator.add([short, endless])
    run(generator)
    assert short.status is endless.status is Status.OK and short.cut and endless.cut
    assert len(short.generated) == 7 and len(endless.generated) == CONTEXT - 2


def test_a_prompt_that_fills_the_context_is_refused_and_nothing_of_its_batch_waits(make: Callable,
                                                                                 ask: Callable) -> None:
    generator = make()
    with pytest.raises(ValueError, match=f"the prompt has {CONTEXT} tokens, expected fewer than the context's"):
        generator.add([ask([10]), ask([10] * CONTEXT)])
    assert not generator.busy
    last = ask([10] * (CONTEXT - 1), 5)
    generator.add([last])
    run(generator)
    assert len(last.generated) <= 1 and last.status is Status.OK


def test_an_urgent_sequence_joins_at_the_next_step_and_the_others_wait_in_order(make: Callable,
                                                                              ask: Callable) -> None:
    generator = make(stop_ids=frozenset())
    usual = [ask([10 + i], 30) for i in range(5)]
    generator.add(usual)
    generator.step()
    assert generator.live_rows == 3 and not usual[3].generated
    urgent = ask([30, 31], 4)
    generator.add([urgent], priority=True)
    generator.step()
    assert len(urgent.generated) == 1
    run(generator)
    assert len(usual[4].generated) == 30


def test_a_sequence_that_is_ended_leaves_within_a_step_and_the_rest_go_on(make: Callable, ask: Callable,
                                                                         reference: Callable) -> None:
    generator = make(stop_ids=frozenset(), max_rows=3)
    first, second, waiting = ask([10, 11], 40), ask([12], 12), ask([13], 5)
    generator.add([first, second, waiting])
    for _ in range(3):
        generator.step()
    first.end(Status.TIMEOUT)
    waiting.end(Status.CANCELED)
    first.end(Status.CANCELED)  # the first reason holds
    generated = list(first.generated)
    generator.step()
    assert first.status is Status.TIMEOUT and first.generated == generated and generator.live_rows == 1
    assert waiting.status is Status.CANCELED and not waiting.generated
    run(generator)
    assert second.status is Status.OK and second.cut and len(second.generated) == 12


def test_what_was_seen_before_is_not_computed_again(make: Callable, ask: Callable) -> None:
    generator = make(stop_ids=frozenset())
    stem = list(range(10, 40))
    generator.add([ask([*stem, 40 + i], 2) for i in range(3)])
    run(generator)
    assert generator.counters["prefilled_tokens"] == 30 + 3
    talk = ask([*stem, 44], 6, cache_key="conversation")
    generator.add([talk])
    run(generator)
    assert generator.counters["prefilled_tokens"] == 33 + 1
    # The last token was chosen, but never fed: it counts as new.
    generator.add([ask([*stem, 44, *talk.generated, 45, 46], 1)])
    run(generator)
    assert generator.counters["prefilled_tokens"] == 34 + 3
    generator.add([ask([*stem, 44], 1, vision="another frame")])
    run(generator)
    assert generator.counters["prefilled_tokens"] == 37 + 31


def test_a_right_draft_saves_steps_and_a_wrong_one_changes_nothing(make: Callable, ask: Callable,
                                                                  reference: Callable) -> None:
    ids = [11, 12, 13]
    expected = reference(ids, 20)
    assert len(expected) > 8
    steps = {}
    for name, draft in (("none", ()), ("right", tuple(expected)), ("wrong", (40,) * 20),
                        ("shifted", tuple(expected[2:])), ("longer", (*expected, *[9] * 300))):
        generator, sequence = make(draft_tokens=8), ask(ids, 20, draft=draft)
        generator.add([sequence])
        run(generator)
        assert sequence.generated == expected, name
        steps[name] = generator.counters["steps"]
    assert steps["right"] == steps["longer"] < steps["none"] / 2
    assert steps["wrong"] == steps["none"]


def test_numbers_that_are_not_finite_end_their_own_row_only(make: Callable, ask: Callable,
                                                           reference: Callable) -> None:
    generator = make(cache_bytes=0)
    good, bad, later = ask([10, 11]), ask([12, NOT_FINITE]), ask([13, 14])
    generator.add([good, bad])
    run(generator)
    generator.add([later])
    run(generator)
    assert bad.status is Status.FAILED and not bad.generated
    assert good.generated == reference([10, 11]) and later.generated == reference([13, 14])


def test_placeholders_are_never_chosen(make: Callable, ask: Callable, language: LlamaForCausalLM) -> None:
    everything = set(range(VOCABULARY)) - {33}
    sequence, generator = ask([10, 11], 5), make(suppress_tokens=everything)
    generator.add([sequence])
    run(generator)
    assert sequence.generated == [33] * 5


def test_sampling_draws_from_the_nucleus_in_proportion() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, -4.0]).log_softmax(-1)
    probabilities = logits.softmax(-1)
    random = torch.Generator().manual_seed(1)
    drawn = [sample(logits, Sampling(1.0, 0.75), random) for _ in range(2000)]
    assert {token for token, _ in drawn} == {0, 1}  # 0.66 alone is less than 0.75, with the second it is more
    share = sum(token == 0 for token, _ in drawn) / len(drawn)
    assert share == pytest.approx(float(probabilities[0] / probabilities[:2].sum()), abs=0.05)
    assert all(probability == pytest.approx(float(probabilities[token])) for token, probability in drawn)


@pytest.mark.parametrize("how", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0},
                                 {"top_p": 1.1}])
def test_sampling_that_makes_no_sense_is_refused_by_name(how: dict) -> None:
    name, value = next(iter(how.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Sampling(**how)


def test_a_reset_forgets_everything(make: Callable, ask: Callable, reference: Callable) -> None:
    generator = make()
    generator.add([ask([10, 11, 12], 50, cache_key="a") for _ in range(5)])
    generator.step()
    generator.reset()
    assert not generator.busy and generator.prefixes.bytes == 0
    again = ask([10, 11, 12])
    generator.add([again])
    run(generator)
    assert again.generated == reference([10, 11, 12])


def test_the_usual_cache_follows_the_model_and_the_memory(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = make(cache_bytes=None)
    token = 2 * 2 * 2 * 8 * 4  # layers · keys and values · heads · head size · bytes
    assert generator.prefixes.max_bytes == 40 * CONTEXT * token
    assert make(cache_bytes=None, context=CONTEXT // 2).prefixes.max_bytes == 20 * CONTEXT * token
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=8000))
    assert make(cache_bytes=None).prefixes.max_bytes == 1000


def test_long_prompts_join_in_turn(make: Callable, ask: Callable, reference: Callable,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.runtime.generator._JOINING_TOKENS", 10)
    generator, prompts = make(), [[10 + i] * 8 for i in range(3)]
    sequences = [ask(ids) for ids in prompts]
    generator.add(sequences)
    generator.step()
    assert generator.live_rows == 2 or any(s.status is not None for s in sequences[:2])
    assert not sequences[2].generated
    run(generator)
    assert [s.generated for s in sequences] == [reference(ids) for ids in prompts]
