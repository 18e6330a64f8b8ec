"""What a training command says where its packages are not installed."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(("module", "package"), [
    ("training.data.coco_format", "ijson"), ("training.data.shards", "webdataset"),
    ("training.evaluation.captioning", "pycocoevalcap.bleu.bleu"), ("training.trainer", "peft")])
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(
        module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module(module)
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=f"^error: .* {package} is not installed; run scripts/setup.sh --dev$"):
        importlib.import_module(module)
