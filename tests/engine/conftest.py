"""Tiny real models, and their exported graphs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import engine_fixtures  # noqa: F401  (makes model_fixtures importable)
import pytest
import torch
from model_fixtures import TEXTS, tiny_config

from ros_gpt4roi.engine.cache import EngineCache
from ros_gpt4roi.engine.export import VisionNetwork, export_onnx, fingerprint
from ros_gpt4roi.model.checkpoint import LoadedModel, build_model
from training.from_scratch.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    tokenizer = train_tokenizer(TEXTS, 420, "chatml")
    config = tiny_config(len(tokenizer), tokenizer.pad_token_id)
    torch.manual_seed(3)
    loaded = build_model(dataclasses.replace(config, prompt=dataclasses.replace(config.prompt, template="chatml")),
                         tokenizer)
    loaded.model.eval()
    return loaded


@pytest.fixture(scope="session")
def network(loaded: LoadedModel) -> VisionNetwork:
    return VisionNetwork.of(loaded.model)


@pytest.fixture(scope="session")
def exported(network: VisionNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 graph of `network`."""
    path = tmp_path_factory.mktemp("exported") / "vision.onnx"
    export_onnx(network, path)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def remembered(cache: EngineCache, network: VisionNetwork, exported: Path) -> Callable[[str], None]:
    """Puts the exported graph into the cache's entry, as `provide_onnx` would: exporting takes most of a test."""
    def remember(entry: str) -> None:
        folder = cache.graph_folder(entry)
        folder.mkdir()
        shutil.copy(exported, folder / "vision.onnx")
        digest = hashlib.sha256(exported.read_bytes()).hexdigest()
        (folder / "record.json").write_text(json.dumps(
            {"fingerprint": fingerprint(network), "files": {"vision.onnx": digest}}))
    return remember
