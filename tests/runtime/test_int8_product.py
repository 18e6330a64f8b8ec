"""The GPU's product with int8 weights, without a GPU: run by Triton's interpreter, and compiled for several."""
from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

from ros_gpt4roi.runtime.quantised_linear import _int8_product, inner_tiles

pytest.importorskip("triton", reason="comes with PyTorch's builds for NVIDIA GPUs")

# In half precision: the interpreter of Triton 3.8 gets bfloat16 wrong, which `try_out` must see.
_INTERPRETED = """
import torch
from ros_gpt4roi.runtime.int8_product import multiply, try_out, widened
random = torch.Generator().manual_seed(1)
for tokens, outputs, inputs in ((1, 16, 128), (5, 70, 200), (16, 33, 64), (17, 48, 384), (32, 7, 129)):
    x = torch.randn(2 * tokens, inputs, generator=random).half()[::2]
    weight = torch.randint(-127, 128, (outputs, inputs), generator=random, dtype=torch.int8)
    scale = (torch.rand(outputs, generator=random) / 64).half()
    torch.testing.assert_close(multiply(x, weight, scale).float(), widened(x.float(), weight, scale.float()),
                               rtol=2e-3, atol=2e-2)
try:
    try_out(torch.device("cpu"))
except RuntimeError as error:
    print(error)
"""


def test_it_multiplies_and_what_multiplies_wrongly_is_noticed() -> None:
    done = subprocess.run([sys.executable, "-c", _INTERPRETED], env={**os.environ, "TRITON_INTERPRET": "1"},
                          capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "the kernel is" in done.stdout and "off" in done.stdout


@pytest.mark.parametrize("capability", [87, 90])  # of an Orin, and of an H100
def test_it_compiles_for_gpus_that_are_not_here(capability: int, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ros_gpt4roi.runtime.int8_product import _INPUTS, _OUTPUTS, _STAGES, _WARPS, kernel
    kinds = {"x": "*bf16", "weight": "*i8", "scale": "*bf16", "out": "*bf16", "tokens": "i32", "outputs": "i32",
             "inputs": "i32"}
    compiled = triton.compile(
        ASTSource(kernel, kinds, constexprs={"TOKENS": 16, "OUTPUTS": _OUTPUTS, "INPUTS": _INPUTS}),
        target=GPUTarget("cuda", capability, 32), options={"num_warps": _WARPS, "num_stages": _STAGES})
    assert len(compiled.asm["cubin"]) > 1000
    assert "mma" in compiled.asm["ptx"], "on tensor cores"


def test_where_it_does_not_run_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    _int8_product.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert _int8_product(torch.device("cpu")) is None  # which Triton has no driver for
    assert "int8 weights are widened at each step on cpu" in caplog.text
    _int8_product.cache_clear()


def test_the_layout_of_int4_is_one_that_the_kernel_takes() -> None:
    assert [inner_tiles(inputs) for inputs in (4096, 11008, 9728, 64, 32, 96)] == [8, 8, 8, 4, 2, 2]
