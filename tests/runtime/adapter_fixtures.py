"""LoRA folders that peft itself has written, for any language model."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_adapter(folder: Path, network: nn.Module, seed: int = 0, strength: float = 0.1, **options: Any) -> PeftModel:
    """Saves a random adapter; gives a copy of the network that has it.

    options: of peft's LoraConfig, beside its defaults of rank 4 on all linear layers. strength: of what it changes.
    """
    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(LINEAR), **options}
    adapted = get_peft_model(copy.deepcopy(network), LoraConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # it begins as zeros
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * strength)
            elif "lora_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
    adapted.save_pretrained(folder)
    return adapted
