"""Which device is taken, and what is said where a GPU is there that PyTorch can not use."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.runtime.device import choose_device, find_gpu

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU works here")


def put(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU works here")
def test_auto_takes_a_gpu_that_works() -> None:
    device = choose_device("auto")
    assert device.name == "cuda" and torch.cuda.get_device_name() in device.reason and not device.advice
    assert "auto" in choose_device("cpu").advice


@without_gpu
def test_auto_is_the_cpu_where_there_is_no_gpu(tmp_path: Path) -> None:
    device = choose_device("auto", tmp_path)
    assert device.name == "cpu" and "no GPU" in device.reason and not device.advice


@without_gpu
@pytest.mark.parametrize("built_with, files, name, advice", [
    ("13.0", {"sys__bus__pci__devices__1__vendor": "0x10de\n", "sys__bus__pci__devices__1__class": "0x030200\n"},
     "an NVIDIA GPU", "--gpus all"),
    ("13.0", {"proc__driver__nvidia__gpus__1__information": "Model: \t NVIDIA L4\nIRQ: 3", "dev__nvidia0": ""},
     "NVIDIA L4", "nvidia-smi"),
    (None, {"proc__driver__nvidia__gpus__1__information": "Model: \t NVIDIA L4\nIRQ: 3"}, "NVIDIA L4",
     "pip install --force-reinstall torch"),
    ("13.0", {"dev__dxg": "", "usr__lib__wsl__lib__libcuda.so.1": ""}, "an NVIDIA GPU of WSL", "nvidia-smi"),
    ("13.0", {"proc__device-tree__compatible": "nvidia,p3971\0nvidia,tegra264\0"}, "a Jetson's GPU", "nvidia-smi"),
    (None, {"etc__nv_tegra_release": "# R36", "proc__device-tree__model": "NVIDIA Jetson Orin Nano\0"},
     "NVIDIA Jetson Orin Nano", f"JetPack and Python {sys.version_info.major}.{sys.version_info.minor}"),
])
def test_a_gpu_that_is_not_used_is_told_with_what_mends_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built_with: str | None, files: dict[str, str], name: str,
        advice: str) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_with)
    root = put(tmp_path, **files)
    assert find_gpu(root) == name
    device = choose_device("auto", root)
    assert device.name == "cpu" and f"{name} is here, but " in device.reason and advice in device.advice
    with pytest.raises(ConfigError, match="device is 'cuda'") as caught:
        choose_device("cuda", root)
    assert advice in str(caught.value)


def test_other_pci_devices_are_no_gpu(tmp_path: Path) -> None:
    put(tmp_path, sys__bus__pci__devices__1__vendor="0x10de\n", sys__bus__pci__devices__1__class="0x040300\n",
        sys__bus__pci__devices__2__vendor="0x8086\n", sys__bus__pci__devices__2__class="0x030000\n")
    assert find_gpu(tmp_path) == ""


def test_a_device_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="device is 'gpu', expected auto, cpu or one that works here"):
        choose_device("gpu")
    assert choose_device("cpu").reason == "asked for"
