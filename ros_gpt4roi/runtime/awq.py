"""Activation-aware scaling of a language model before its weights become 4 bits (AWQ, Lin et al., arXiv 2306.00978).

Of a layer's inputs a few are much larger than the rest, and rounding errors of the weights they meet weigh most. These
weights are scaled up, and what makes the inputs is scaled down by the same: in exact arithmetic the model stays what it
was, but in 4 bits more of it is left. Written here because the kept libraries quantise to layers of their own
(torchao's tensor subclasses, AutoAWQ's GEMM), not to those of `quantised_linear`.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .language_format import int4_group
from .quantised_linear import round_to_int4

_STRENGTHS = torch.linspace(0, 1, 11).tolist()  # powers of the typical input; 0 leaves a layer as it is
_TOKENS = 32  # of each text, by which a layer's scales are chosen
_RECORDED = ("q_proj", "o_proj", "gate_proj", "down_proj")  # the others have the same inputs as one of these


@torch.inference_mode()
def record_inputs(language: nn.Module, run: Callable[[], object]) -> dict[str, torch.Tensor]:
    """Record some of the inputs that linear layers get while a language model reads texts such as it is for.

    Args:
        language: The language model.
        run: Lets it read, without padding, and a few dozen times.

    Returns:
        Of each layer, by name, [tokens, in].
    """
    found: dict[str, list[torch.Tensor]] = {}
    random = torch.Generator().manual_seed(0)

    def keep(name: str, inputs: torch.Tensor) -> None:
        tokens = inputs.flatten(0, -2)
        chosen = torch.randperm(len(tokens), generator=random)[:_TOKENS].to(tokens.device)
        found.setdefault(name, []).append(tokens[chosen])

    hooks = [layer.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
             for name, layer in language.named_modules() if name.endswith(_RECORDED)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


@torch.inference_mode()
def scale_for_int4(language: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Scale a Llama's layers in place, so that least is lost in int4 of what they make of recorded `inputs`.

    Raises:
        AttributeError, KeyError: The language model is not built as transformers builds a Llama; nothing is changed.
    """
    work = []
    for number, layer in enumerate(language.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        of_attention, of_mlp = f"model.layers.{number}.self_attn", f"model.layers.{number}.mlp"
        work.append(([attention.q_proj, attention.k_proj, attention.v_proj], inputs[f"{of_attention}.q_proj"],
                     [layer.input_layernorm.weight]))
        if attention.v_proj.out_features == attention.o_proj.in_features:  # else one value serves several heads
            work.append(([attention.o_proj], inputs[f"{of_attention}.o_proj"], _outputs(attention.v_proj)))
        work.append(([mlp.gate_proj, mlp.up_proj], inputs[f"{of_mlp}.gate_proj"],
                     [layer.post_attention_layernorm.weight]))
        work.append(([mlp.down_proj], inputs[f"{of_mlp}.down_proj"], _outputs(mlp.up_proj)))
    for layers, given, makers in work:
        _scale(layers, given, makers)


def _outputs(layer: nn.Linear) -> list[torch.Tensor]:
    """What a layer's outputs are proportional to, by rows."""
    return [layer.weight] if layer.bias is None else [layer.weight, layer.bias]


def _scale(layers: Sequence[nn.Linear], inputs: torch.Tensor, makers: Sequence[torch.Tensor]) -> None:
    """Multiplies the weights that meet each input by the scale that serves best, and divides what makes the input."""
    group = int4_group(layers[0].in_features)
    if group is None:  # which stays in float
        return
    inputs = inputs.float()
    typical = inputs.abs().mean(0).clamp_min(1e-6)
    scales = [powers / (powers.max() * powers.min()).sqrt() for powers in map(typical.pow, _STRENGTHS)]
    weights = [layer.weight.float() for layer in layers]
    wanted = [inputs @ weight.T for weight in weights]

    def lost(scale: torch.Tensor) -> float:
        """Squared error of the outputs in int4, weights scaled and inputs the other way."""
        given = inputs / scale
        return sum(float((given @ round_to_int4(weight * scale, group).T - outputs).square().sum())
                   for weight, outputs in zip(weights, wanted))

    best = min(scales, key=lost)
    for layer in layers:
        layer.weight.mul_(best.to(layer.weight))
    for maker in makers:
        maker.div_(best.to(maker).reshape(-1, *[1] * (maker.dim() - 1)))
