"""Memory and time that loading a model takes, by number format, at the first start and at later ones.

The model is a Qwen3-VL of about 1.1 billion random parameters in bf16, in shards as transformers writes them. It and
the engine cache lie in a temporary folder. Each start is a process of its own; Linux says how much it held at most.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from training.from_scratch.tokenizer import train_tokenizer

from .common import machine_facts, write_results

_MARKS = {"vision_start_token_id": "<|vision_start|>", "image_token_id": "<|image_pad|>",
          "video_token_id": "<|video_pad|>", "vision_end_token_id": "<|vision_end|>"}
_START = """
import json, pathlib, re, sys, time
from ros_gpt4roi.engine.profiles import EngineOptions
from ros_gpt4roi.runtime.language_cache import load_kept
# Not getrusage's: that begins with what the process had that started this one.
most = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
before, begun = most(), time.perf_counter()
model = load_kept(sys.argv[1], sys.argv[2], "cpu", EngineOptions(cache=sys.argv[3])).model
print(json.dumps({"seconds": time.perf_counter() - begun, "program_bytes": before, "most_bytes": most(),
                  "weights_bytes": sum(value.nbytes for value in (*model.parameters(), *model.buffers()))}))
"""


def write_model(folder: Path, layers: int, encoder_layers: int = 6, narrow: bool = False) -> int:
    """Write the model.

    Args:
        folder: Where it goes.
        layers: Of the decoder.
        encoder_layers: Of the encoder, at least 3.
        narrow: Of all else as little as there can be.

    Returns:
        Its number of parameters.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = train_tokenizer(["What is region 1?"] * 4, 300, "chatml")
    tokenizer.add_tokens(list(_MARKS.values()), special_tokens=True)
    marks = {field: tokenizer.convert_tokens_to_ids(token) for field, token in _MARKS.items()}
    text: dict[str, Any] = dict(hidden_size=2048, intermediate_size=6144, num_attention_heads=16, num_key_value_heads=8,
                                head_dim=128, vocab_size=151936)
    if narrow:
        text = dict(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                    vocab_size=len(tokenizer), rope_parameters={
                        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2],
                        "mrope_interleaved": True})
    config = Qwen3VLConfig(
        vision_config=dict(depth=encoder_layers, hidden_size=32 if narrow else 1024,
                           intermediate_size=64 if narrow else 4096, num_heads=2 if narrow else 16, patch_size=16,
                           out_hidden_size=text["hidden_size"],
                           deepstack_visual_indexes=[number * encoder_layers // 3 - 1 for number in (1, 2, 3)]),
        text_config=dict(num_hidden_layers=layers, **text),
        tie_word_embeddings=True, **marks)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen3VLForConditionalGeneration(config)
    torch.set_default_dtype(default)
    model.save_pretrained(folder, max_shard_size="512MB")
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def start(folder: Path, number_format: str, cache: Path) -> dict[str, Any]:
    """What one start takes."""
    done = subprocess.run([sys.executable, "-c", _START, str(folder), number_format, str(cache)], check=True,
                          stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--layers", type=int, default=12, help="of the decoder (default: %(default)s)")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine_facts()}
    with tempfile.TemporaryDirectory() as scratch:
        folder, cache = Path(scratch, "model"), Path(scratch, "cache")
        results["parameters"] = write_model(folder, options.layers)
        files = [path.stat().st_size for path in folder.glob("model*.safetensors")]
        results |= {"stored_bytes": sum(files), "largest_file_bytes": max(files), "formats": {}}
        for number_format in ("fp32", "bf16", "int8", "int4"):
            starts = {"first": start(folder, number_format, cache)}
            if number_format.startswith("int"):
                starts["later"] = start(folder, number_format, cache)
            results["formats"][number_format] = starts
    write_results(options.json, results)


if __name__ == "__main__":
    main()
