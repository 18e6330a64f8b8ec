"""Steps in ONNX Runtime against the same steps in PyTorch, over one cache."""
from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ros_gpt4roi.runtime.kv_cache import SlotCache
from ros_gpt4roi.runtime.language_backend import choose_body
from ros_gpt4roi.runtime.language_format import quantise_language
from ros_gpt4roi.runtime.language_model import LlamaBody
from ros_gpt4roi.runtime.onnx_language_model import OnnxBody
from ros_gpt4roi.runtime.quantised_linear import multiplies_bytes

LAYERS, HEADS, KEY_HEADS, SIZE, CONTEXT = 2, 4, 2, 16, 64
WIDTH = HEADS * SIZE
INT8_DYNAMIC = pytest.param("int8-dynamic", marks=pytest.mark.skipif(
    not multiplies_bytes(), reason="this CPU saturates sums of products of bytes"))


def make_language(**differing) -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**{**dict(
        hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, vocab_size=40, max_position_embeddings=CONTEXT, initializer_range=0.2),
        **differing})).eval()


def make_cache(slots: int = 600) -> SlotCache:
    return SlotCache(LAYERS, KEY_HEADS, SIZE, slots, torch.float32, torch.device("cpu"))


def steps(body, counts: list[int], cache: SlotCache | None = None, spoiled: int = -1) -> list[torch.Tensor]:
    """Two rows, fed so many tokens each at every step; the second shares the first's tokens of the first step.
    spoiled: number of the step whose first row is not finite."""
    cache, random = make_cache() if cache is None else cache, torch.Generator().manual_seed(0)
    rows, found = [np.empty(0, np.int64)] * 2, []
    with torch.inference_mode():
        for step, count in enumerate(counts):
            fed = 1 if step == 0 else 2
            new = [cache.take(count) for _ in range(fed)]
            sees = np.zeros((fed * count, cache.extent), np.bool_)
            for i, slots in enumerate(new):
                sees[i * count:(i + 1) * count, rows[i]] = True
                sees[i * count:(i + 1) * count, slots] = np.tri(count, dtype=np.bool_)
            positions = np.concatenate([np.arange(len(rows[i]), len(rows[i]) + count) for i in range(fed)])
            cache.map_slots(torch.from_numpy(np.concatenate(new)), cache.extent)
            numbers = torch.randn(fed * count, WIDTH, generator=random)
            if step == spoiled:
                numbers[:count] = torch.nan
            found.append(body(numbers, torch.from_numpy(positions), cache, torch.from_numpy(sees)).clone())
            rows = [np.concatenate([row, slots]) for row, slots in zip(rows, new * 2 if fed == 1 else new)]
    return found


@pytest.mark.parametrize("differing", [
    {}, dict(num_key_value_heads=KEY_HEADS, attention_bias=True, mlp_bias=True),
    dict(rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0, "original_max_position_embeddings": 32})])
def test_every_step_gives_what_pytorch_gives(differing: dict) -> None:
    body = make_language(**differing).base_model
    lean = LlamaBody(body)
    # 20 and 10 for each of two rows are more than it takes itself; then the cache outgrows its memory.
    counts = [5, 1, 1, 3, 20, 1, 10, 1]
    for mine, expected in zip(steps(OnnxBody(body, CONTEXT, lean), counts), steps(lean, counts), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_the_cache_holds_what_pytorch_would_have_written() -> None:
    body = make_language().base_model
    lean, caches = LlamaBody(body), (make_cache(), make_cache())
    steps(OnnxBody(body, CONTEXT, lean), [4, 1, 2], caches[0])
    steps(lean, [4, 1, 2], caches[1])
    torch.testing.assert_close(caches[0].memory, caches[1].memory, rtol=1e-4, atol=1e-4)
    assert caches[0].memory.abs().sum() > 0


def test_memory_that_grows_and_another_number_of_threads_change_nothing() -> None:
    body = make_language().base_model
    lean = LlamaBody(body)
    few, counts = OnnxBody(body, CONTEXT, lean), [5, 1, 1]
    expected, before = steps(lean, counts), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            small = make_cache(), make_cache()
            small[1].take(400)  # grown to more memory, and the free slots lie elsewhere
            for cache in small:
                for mine, wanted in zip(steps(few, counts, cache), expected, strict=True):
                    torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    body = make_language().base_model
    lean, counts = LlamaBody(body), [5, 2, 1]
    mine, expected = steps(OnnxBody(body, CONTEXT, lean), counts, spoiled=1), steps(lean, counts)
    assert mine[1][:2].isnan().all()
    torch.testing.assert_close(mine[1][2:], expected[1][2:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mine[2][1:], expected[2][1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number_format", ["int8", INT8_DYNAMIC])
def test_int8_is_as_close_to_float_as_pytorchs_own(number_format: str) -> None:
    language, counts = make_language(), [5, 1, 2, 1]
    expected = steps(LlamaBody(language.base_model), counts)
    quantised = copy.deepcopy(language)
    quantise_language(quantised, number_format)
    lean = LlamaBody(quantised.base_model)
    few = OnnxBody(quantised.base_model, CONTEXT, lean)
    assert not few.exact

    def error(found: list[torch.Tensor]) -> float:
        return float((torch.cat(found) - torch.cat(expected)).norm() / torch.cat(expected).norm())

    mine, theirs = error(steps(few, counts)), error(steps(lean, counts))
    assert 0 < mine < max(2 * theirs, 0.05)
    if number_format == "int8-dynamic":  # but for what is next to a half of a step
        torch.testing.assert_close(torch.cat(steps(few, counts)), torch.cat(steps(lean, counts)), rtol=0.02, atol=0.02)


def test_int8_dynamic_stays_with_pytorch_on_a_cpu_that_would_saturate(monkeypatch: pytest.MonkeyPatch,
                                                                      caplog: pytest.LogCaptureFixture) -> None:
    language = make_language()
    quantise_language(language, "int8-dynamic")
    monkeypatch.setattr("ros_gpt4roi.runtime.onnx_language_model.multiplies_bytes", lambda: False)
    with caplog.at_level(logging.INFO):
        assert isinstance(chosen(language), LlamaBody)
    assert "expected VNNI" in caplog.text


def chosen(language: LlamaForCausalLM, onnxruntime: bool = True):
    weight = language.get_input_embeddings().weight.detach()
    return choose_body(language.base_model,
                       lambda slots: SlotCache(LAYERS, KEY_HEADS, SIZE, slots, weight.dtype, torch.device("cpu")),
                       weight[:6], CONTEXT, onnxruntime)


def test_a_small_llama_on_a_cpu_takes_its_steps_here_unless_told_otherwise() -> None:
    language = make_language()
    assert isinstance(chosen(language), OnnxBody)
    assert isinstance(chosen(language, onnxruntime=False), LlamaBody)
    quantise_language(language, "int8")
    assert isinstance(chosen(language), OnnxBody)


@pytest.mark.parametrize("number_format", ["fp32", "int8", INT8_DYNAMIC])
def test_a_model_of_many_weights_stays_with_pytorch(number_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    language = make_language()
    layers = sum(p.numel() for name, p in language.base_model.layers.named_parameters() if name.endswith("proj.weight"))
    size = layers * (4 if number_format == "fp32" else 1)
    if number_format != "fp32":
        quantise_language(language, number_format)
    monkeypatch.setattr("ros_gpt4roi.runtime.language_backend._SMALL_BODY", size)  # norms are more
    assert isinstance(chosen(language), LlamaBody)
    monkeypatch.setattr("ros_gpt4roi.runtime.language_backend._SMALL_BODY", 2 * size)
    assert isinstance(chosen(language), OnnxBody)


@pytest.mark.parametrize("number_format, differing, why", [
    ("bf16", {}, "expected float32 or int8"),
    ("int4", {}, "expected float32 or int8 ones"),
    ("fp32", dict(hidden_act="gelu"), "activation 'gelu'"),
    ("fp32", dict(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}), "'dynamic'")])
def test_what_it_does_not_know_runs_in_pytorch_and_the_log_says_why(number_format: str, differing: dict, why: str,
                                                                  caplog: pytest.LogCaptureFixture) -> None:
    language = make_language(**differing)
    if number_format == "bf16":
        language.to(torch.bfloat16)
    elif number_format != "fp32":
        quantise_language(language, number_format)
    with caplog.at_level(logging.INFO):
        assert isinstance(chosen(language), LlamaBody)
    assert why in caplog.text
