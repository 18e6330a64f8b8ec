"""What recipes of a tiny network start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_fixtures import save_scenes, save_start


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def scenes(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scenes(tmp_path_factory.mktemp("scenes"), start)
