"""What is stated of the models that are known by name, held to the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.model.checkpoint import load_any
from ros_gpt4roi.models.catalogue import FORMATS, Entry, Parameters, read_catalogue
from ros_gpt4roi.runtime import format_choice
from ros_gpt4roi.runtime.language_format import load_model
from ros_gpt4roi.runtime.quantised_linear import _cpu_layout_is_known

# Of their config.json: width, width within, layers and heads of the decoder and of the encoder.
ARCHITECTURES = {
    "Qwen3-VL-2B-Instruct": ((2048, 6144, 28, 16), (1024, 4096, 24), [5, 11, 17], True),
    "Qwen3-VL-4B-Instruct": ((2560, 9728, 36, 32), (1024, 4096, 24), [5, 11, 17], True),
    "Qwen3-VL-8B-Instruct": ((4096, 12288, 36, 32), (1152, 4304, 27), [8, 16, 24], False),
}


def count(vision: torch.nn.Module, decoder: torch.nn.Module, tied: bool) -> Parameters:
    def sizes(module: torch.nn.Module, *kinds: type) -> int:
        return sum(parameter.numel() for part in module.modules() if not kinds or isinstance(part, kinds)
                   for parameter in part.parameters(recurse=False))

    linear, embedding = sizes(decoder, torch.nn.Linear), sizes(decoder, torch.nn.Embedding)
    return Parameters(vision=sizes(vision), linear=linear, embedding=embedding, tied=tied,
                      norms=sizes(decoder) - linear - embedding)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_those_of_the_architecture(name: str) -> None:
    (width, within, layers, heads), (seen, seen_within, depth), deepstack, tied = ARCHITECTURES[name]
    config = Qwen3VLConfig(
        vision_config=dict(depth=depth, hidden_size=seen, intermediate_size=seen_within, num_heads=16, patch_size=16,
                           spatial_merge_size=2, out_hidden_size=width, num_position_embeddings=2304,
                           deepstack_visual_indexes=deepstack),
        text_config=dict(hidden_size=width, intermediate_size=within, num_hidden_layers=layers, head_dim=128,
                         num_attention_heads=heads, num_key_value_heads=8, vocab_size=151936), tie_word_embeddings=tied)
    with init_empty_weights():
        model = Qwen3VLForConditionalGeneration(config).model
    assert read_catalogue()[name].parameters == count(model.visual, model.language_model, tied)


@pytest.mark.parametrize("number_format", FORMATS)
def test_the_memory_of_a_format_is_what_its_tensors_take(tiny_qwen: Path, number_format: str) -> None:
    model = load_any(tiny_qwen).model
    stated = count(model.vision, model.language.base_model, tied=False).memory(number_format, gpu=False)
    loaded = load_model(tiny_qwen, number_format).model
    held = sum(tensor.nbytes for tensor in (*loaded.parameters(), *loaded.buffers()))
    one_layout = number_format == "int4" and _cpu_layout_is_known()
    # So small layers have more scales to a weight, and int4 fills rows up to 64.
    assert (0.6 if one_layout else 0.9) * stated < held < 1.15 * stated


def test_the_table_for_an_orin_is_computed_of_it(root: Path) -> None:
    page = (root / "docs" / "models.md").read_text()
    table = page.partition("steps a second at most")[2].partition("\n\n")[0]
    shown = [row.strip("| ").split(" | ") for row in table.splitlines() if row.startswith("| `")]
    stated = {name: entry.parameters for name, entry in read_catalogue().items() if entry.parameters}
    assert [row[0].strip("`") for row in shown] == list(stated)
    for row, parameters in zip(shown, stated.values()):
        memory = [size(number_format, gpu=True) for number_format in ("bf16", "int8", "int4")
                  for size in (parameters.memory, parameters.loading)]
        read = parameters.linear + parameters.embedding  # weights, at each step
        steps = [bandwidth / size / read for size in (2, 0.5 + 4 / 64) for bandwidth in (204.8e9, 102.4e9)]
        assert row[1:] == [*(f"{size / 1e9:.1f} GB" for size in memory), *(f"{rate:.0f}" for rate in steps)]
    # What `auto` asks for to be free: an eighth of it is left for caches.
    bf16, int8 = ([f"{(parameters.loading(number_format, gpu=True) + format_choice._MARGIN) * 8 / 7 / 1e9:.1f}"
                   for parameters in stated.values()] for number_format in ("bf16", "int8"))
    assert "{} GB (2B), {} GB (4B) or {} GB (8B)".format(*bf16) in page
    assert "from {}, {} or {} GB on".format(*int8) in page


@pytest.mark.parametrize("change, expected", [
    ({"revision": "main"}, "revision is 'main', expected a commit"),
    ({"files": ["config.json", "pytorch_model.bin"]}, "files has 'pytorch_model.bin', expected names without a folder"),
    ({"files": ["../config.json"]}, r"files has '\.\./config.json'"),
    ({"files": ["sub/config.json"]}, "files has 'sub/config.json'"),
])
def test_an_entry_names_a_commit_and_files_without_code(change: dict, expected: str) -> None:
    facts = {"about": "x", "licence": "MIT", "licence_page": "https://opensource.org/license/mit", "tried": "no"}
    with pytest.raises(ConfigError, match=expected):
        Entry(**facts, **change)
