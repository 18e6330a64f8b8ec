"""The fixed-shape forward against the free one, on whatever device there is; CUDA graphs where there is a GPU."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ros_gpt4roi.runtime.forward import FixedForward
from ros_gpt4roi.runtime.generator import Generator
from ros_gpt4roi.runtime.kv_cache import Prompt
from ros_gpt4roi.runtime.language_model import LlamaBody, TransformersBody
from ros_gpt4roi.runtime.onnx_language_model import OnnxBody
from ros_gpt4roi.runtime.request import Sequence

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(scope="module")
def language() -> LlamaForCausalLM:
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, max_position_embeddings=96, tie_word_embeddings=False)).eval()
    with torch.no_grad():  # spread, so that texts differ
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model


def make(language: PreTrainedModel, **how) -> Generator:
    return Generator(language, stop_ids=frozenset({3}), suppress_tokens=[7], context=96, max_rows=6, priority_rows=1,
                   draft_tokens=4, cache_bytes=1 << 20, **how)


def texts(generator: Generator, language: LlamaForCausalLM, seed: int, prompts: int = 12) -> list[list[int]]:
    """Texts of prompts, some with a beginning in common, that join one after the other."""
    random, sequences = np.random.default_rng(seed), []
    stem = random.integers(8, 40, 20).tolist()
    for _ in range(prompts):
        ids = [*(stem if random.random() < 0.5 else []), *random.integers(8, 40, int(random.integers(1, 40))).tolist()]

        def embed(ids: list[int] = ids) -> torch.Tensor:
            table = language.get_input_embeddings()
            return table(torch.tensor(ids, device=table.weight.device))

        sequences.append(Sequence(Prompt.of(ids, [-1] * len(ids), "v"), embed,
                                  max_new_tokens=int(random.integers(1, 20)),
                                  draft=tuple(random.integers(8, 40, 10).tolist())))
        generator.add(sequences[-1:])
        generator.step()
    while generator.busy:
        generator.step()
    return [sequence.generated for sequence in sequences]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiler", ["", "eager"])
def test_fixed_shapes_give_the_same_texts(device: str, compiler: str, language: LlamaForCausalLM) -> None:
    language.to(device)
    expected = texts(make(language, fixed_shapes=False), language, 0)
    fixed = make(language, fixed_shapes=True, compiler=compiler)
    assert texts(fixed, language, 0) == expected
    fixed.warm_up()
    fixed.reset()
    assert texts(fixed, language, 0) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_inductor_and_cuda_graphs_give_the_same_texts(language: LlamaForCausalLM) -> None:
    language.to("cuda")
    expected = texts(make(language, fixed_shapes=False), language, 1)
    assert texts(make(language, compiler="inductor"), language, 1) == expected


def test_the_shapes_are_few_and_warm_up_prepares_them_all(language: LlamaForCausalLM) -> None:
    language.to("cpu")
    generator = make(language, fixed_shapes=True)
    texts(generator, language, 2)
    generator.warm_up()
    assert isinstance(generator._forward, FixedForward)
    prepared = dict(generator._forward._shapes)
    assert len(prepared) == 6 * -(-generator.cache.capacity // 512)
    texts(generator, language, 2, prompts=6)
    assert generator._forward._shapes == prepared


def test_a_llama_runs_in_few_operations_and_what_is_none_through_transformers(language: LlamaForCausalLM) -> None:
    language.to("cpu")
    assert isinstance(make(language, onnxruntime=False)._forward._body, LlamaBody)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, vocab_size=50)
    torch.manual_seed(4)
    # It has the same modules, and adds their outputs in part only.
    other = GraniteForCausalLM(GraniteConfig(**sizes, residual_multiplier=0.4)).eval()
    assert isinstance(make(other)._forward._body, TransformersBody)
    assert texts(make(other), other, 3, prompts=3)
    normed = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8, initializer_range=0.3)).eval()
    with torch.no_grad():
        for layer in normed.model.layers:
            layer.self_attn.q_norm.weight.uniform_(0.5, 2)
            layer.self_attn.k_norm.weight.uniform_(0.5, 2)
    lean = make(normed, onnxruntime=False)
    assert isinstance(lean._forward._body, LlamaBody) and isinstance(make(normed)._forward._body, OnnxBody)
    assert texts(lean, normed, 3, prompts=3) == texts(make(normed), normed, 3, prompts=3)
