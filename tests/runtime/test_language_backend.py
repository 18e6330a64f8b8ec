"""Tokens chosen in ONNX Runtime against those that PyTorch chooses."""
from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ros_gpt4roi.runtime.language_backend import choose_head
from ros_gpt4roi.runtime.language_model import Choice, Head, TorchHead
from ros_gpt4roi.runtime.onnx_language_model import OnnxHead
from ros_gpt4roi.runtime.quantised_linear import Int4Linear, Int8DynamicLinear, Int8Linear

WIDTH, VOCABULARY = 48, 90
NEVER = torch.tensor([4, 17])


def make_layer(bias: bool = False) -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(WIDTH, VOCABULARY, bias=bias)


def states(count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3))


def chosen(head: Head, hidden: torch.Tensor, wanted: list[int]) -> Choice:
    with torch.inference_mode():
        return head(hidden, wanted)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("count, wanted", [(1, [0]), (5, [0, 1, 2, 3, 4]), (16, [2, 15]), (30, [*range(30)])])
def test_it_chooses_what_pytorch_chooses(count: int, wanted: list[int], bias: bool) -> None:
    layer, hidden = make_layer(bias), states(count)
    own = TorchHead(layer, NEVER)
    mine, expected = chosen(OnnxHead(layer, NEVER, own), hidden, wanted), chosen(own, hidden, wanted)
    assert mine.tokens == expected.tokens and len(mine.tokens) == len(wanted)
    assert mine.probabilities == pytest.approx(expected.probabilities, rel=1e-4)
    torch.testing.assert_close(mine.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert mine.finite.tolist() == expected.finite.tolist() == [True] * count


def test_the_probability_is_that_among_the_tokens_that_may_be_chosen() -> None:
    layer, hidden = make_layer(), states(3)
    # Pointed at by every hidden state, and not to be chosen.
    with torch.no_grad():
        layer.weight[NEVER] = 10 * hidden.sum(0)
        shares = nn.functional.linear(hidden, layer.weight).index_fill(1, NEVER, float("-inf")).softmax(1)
    for head in (own := TorchHead(layer, NEVER), OnnxHead(layer, NEVER, own)):
        choice = chosen(head, hidden, [0, 1, 2])
        assert choice.tokens == shares.argmax(1).tolist() and not {*choice.tokens} & {*NEVER.tolist()}
        assert choice.probabilities == pytest.approx(shares.amax(1).tolist(), rel=1e-4)


@pytest.mark.parametrize("kind", [Int8Linear, Int8DynamicLinear])
def test_int8_is_as_close_to_float_as_pytorchs_own(kind: Any) -> None:
    hidden, wanted = states(8), list(range(8))
    expected = chosen(TorchHead(make_layer(), NEVER), hidden, wanted).logits
    layer = kind.from_float(make_layer())
    allowed = expected.isfinite()

    def error(head: Head) -> float:
        found = chosen(head, hidden, wanted).logits
        return float((found - expected)[allowed].norm() / expected[allowed].norm())

    own = TorchHead(layer, NEVER)
    assert 0 < error(OnnxHead(layer, NEVER, own)) < 2 * error(own)


def test_a_state_that_is_not_finite_is_named_and_changes_no_other() -> None:
    layer, hidden = make_layer(), states(3)
    for head in (own := TorchHead(layer, NEVER), OnnxHead(layer, NEVER, own)):
        whole = chosen(head, hidden, [0, 1, 2])
        spoiled = hidden.clone()
        spoiled[1, 5] = torch.nan
        choice = chosen(head, spoiled, [0, 1, 2])
        assert choice.finite.tolist() == [True, False, True]
        assert [choice.tokens[i] for i in (0, 2)] == [whole.tokens[i] for i in (0, 2)]
        # Also where it is not wanted itself.
        assert chosen(head, spoiled, [2]).finite.tolist() == [True, False, True]


def test_a_small_layer_on_a_cpu_chooses_in_onnx_runtime_unless_told_otherwise(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    layer = make_layer()
    assert isinstance(choose_head(layer, NEVER, torch.float32, True), OnnxHead)
    assert isinstance(choose_head(Int8Linear.from_float(layer), NEVER, torch.float32, True), OnnxHead)
    assert isinstance(choose_head(layer, NEVER, torch.float32, False), TorchHead)
    assert isinstance(choose_head(make_layer().bfloat16(), NEVER, torch.bfloat16, True), TorchHead)
    with caplog.at_level(logging.INFO):
        int4 = Int4Linear.from_float(nn.Linear(64, 64), 32)
        assert isinstance(choose_head(int4, NEVER, torch.float32, True), TorchHead)
    assert "the output layer runs in PyTorch" in caplog.text
    monkeypatch.setattr("ros_gpt4roi.runtime.language_backend.SMALL_HEAD", layer.weight.nbytes - 1)
    assert isinstance(choose_head(layer, NEVER, torch.float32, True), TorchHead)


def test_logits_are_float32_whatever_the_model() -> None:
    choice = chosen(TorchHead(make_layer().bfloat16(), NEVER), states(2).bfloat16(), [1])
    assert choice.logits.dtype == torch.float32 and isinstance(choice.finite, np.ndarray)
