"""Scaling before int4: the same model in exact arithmetic, and more of it left in 4 bits."""
from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ros_gpt4roi.runtime.awq import record_inputs, scale_for_int4
from ros_gpt4roi.runtime.language_format import quantise_language


def make_language(**differing) -> LlamaForCausalLM:
    """A random Llama of which a few inputs are much larger than the others, as in trained ones."""
    torch.manual_seed(1)
    language = LlamaForCausalLM(LlamaConfig(**{**dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=80, max_position_embeddings=64, initializer_range=0.1), **differing})).eval().requires_grad_(False)
    for layer in language.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight[[3, 40]] = 25.0
        if differing.get("attention_bias"):
            layer.self_attn.v_proj.bias.normal_()
            layer.mlp.up_proj.bias.normal_()
    return language


def read(language: LlamaForCausalLM, seed: int, texts: int = 8) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        return torch.cat([language(torch.randint(80, (1, 24), generator=random)).logits[0] for _ in range(texts)])


def scaled(language: LlamaForCausalLM) -> LlamaForCausalLM:
    found = copy.deepcopy(language)
    scale_for_int4(found, record_inputs(found, lambda: read(found, seed=1)))
    return found


@pytest.mark.parametrize("differing", [{}, dict(num_key_value_heads=2, attention_bias=True, mlp_bias=True),
                                       dict(num_key_value_heads=4, attention_bias=True, mlp_bias=True)])
def test_the_model_stays_what_it_was(differing: dict) -> None:
    language = make_language(**differing)
    changed = scaled(language)
    first, first_before = changed.model.layers[0], language.model.layers[0]
    assert not torch.equal(first.input_layernorm.weight, first_before.input_layernorm.weight)
    assert not torch.equal(changed.model.layers[1].mlp.down_proj.weight, language.model.layers[1].mlp.down_proj.weight)
    torch.testing.assert_close(read(changed, seed=2), read(language, seed=2), rtol=1e-3, atol=1e-3)


def test_less_is_lost_in_4_bits_on_texts_it_was_not_measured_on() -> None:
    language = make_language()
    expected, errors = read(language, seed=2), []
    for candidate in (copy.deepcopy(language), scaled(language)):
        quantise_language(candidate, "int4")
        errors.append(float((read(candidate, seed=2) - expected).norm() / expected.norm()))
    plain, better = errors
    assert 0 < better < 0.8 * plain


def test_layers_that_int4_cannot_hold_stay_as_they_are() -> None:
    language = make_language(hidden_size=48, intermediate_size=80)
    found = scaled(language)
    for name, weight in language.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name


def test_nothing_listens_on_when_the_texts_are_read() -> None:
    language = make_language()
    inputs = record_inputs(language, lambda: read(language, seed=1, texts=3))
    assert {name.rpartition(".")[2] for name in inputs} == {"q_proj", "o_proj", "gate_proj", "down_proj"}
    assert inputs["model.layers.0.mlp.down_proj"].shape == (3 * 24, 128)
    with pytest.raises(ZeroDivisionError):
        record_inputs(language, lambda: 1 // 0)
    assert not any(layer._forward_pre_hooks for layer in language.modules())


def test_another_kind_of_model_is_not_touched() -> None:
    language = make_language()
    before = copy.deepcopy(language.state_dict())
    inputs = record_inputs(language, lambda: read(language, seed=1, texts=1))
    del inputs["model.layers.1.mlp.down_proj"]
    with pytest.raises(KeyError, match="down_proj"):
        scale_for_int4(language, inputs)
    assert all(torch.equal(before[name], weight) for name, weight in language.state_dict().items())
