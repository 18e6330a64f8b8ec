"""What all tests share: a ROS domain and log files of their own, a peer of the nodes, a tiny model.

ROS is imported by those that need it: without it, their modules skip themselves.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ros_peer import Peer

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "nodes"), str(ROOT / "tests" / "console")]

from isolation import claim_domain, variables  # noqa: E402

import ros_gpt4roi  # noqa: E402, F401  (before any other library: it keeps them from phoning home)

if "PYTEST_XDIST_WORKER" in os.environ:  # the other worker has the other core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Set before any test imports rclpy, and inherited by the processes that tests start.
_domain, _domain_claim = claim_domain()
_ros_home = Path(tempfile.mkdtemp(prefix="ros_gpt4roi_tests_"))
os.environ.update(variables(_domain, _ros_home))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several workers share the tests, one takes all that run nodes, and modules stay whole.

    Nodes of two tests at once would not meet (each worker has a domain), but they would wait for each other's cores.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return "nodes" if module.split("/")[1] in ("client", "console", "docs", "nodes", "scripts") else module

    return ByRoom(config, log)


def pytest_unconfigure() -> None:
    _domain_claim.close()
    shutil.rmtree(_ros_home, ignore_errors=True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The source checkout."""
    return ROOT


@pytest.fixture(scope="session")
def ros_domain() -> int:
    """The ROS domain of this test process and of those it starts."""
    return _domain


@pytest.fixture(scope="session")
def ros_home() -> Path:
    """Where this test process and those it starts keep ROS log files; removed at the end."""
    return _ros_home


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    """ROS in this test process, in the domain that the tests have claimed."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from ros_gpt4roi.transport import use_large_messages
    use_large_messages()
    # Ctrl-C is pytest's: rclpy would shut down and let every remaining test fail.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope="module")
def peer(ros: None) -> Iterator[Peer]:
    from ros_peer import Peer
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the real architecture, smaller than small, with random weights: it says anything,
    always up to the limit of tokens."""
    import torch

    from ros_gpt4roi.model.checkpoint import build_model, save_checkpoint
    from ros_gpt4roi.model.config import (
        LanguageConfig,
        ModelConfig,
        PreprocessConfig,
        PromptConfig,
        RoIAlignConfig,
        VisionConfig,
    )
    from training.from_scratch.tokenizer import train_tokenizer

    texts = ["what is region 1? it is a small red mug to the left of the large blue bowl"] * 4
    tokenizer = train_tokenizer(texts, 300, "chatml")
    config = ModelConfig(
        vision=VisionConfig(
            encoder=dict(model_type="resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
                         layer_type="basic"),
            levels=("stage1", "stage2"), tokens="stage2"),
        regions=RoIAlignConfig(channels=16, scales=None, fusion_rounds=1, groups=4, roi_size=3, hidden=16,
                               position_hidden=16),
        language=LanguageConfig(dict(
            model_type="llama", hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, vocab_size=len(tokenizer), max_position_embeddings=1024, tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=None)),
        prompt=PromptConfig(template="chatml", image_text="{image}", max_regions=16, context=1024),
        preprocess=PreprocessConfig(image_size=64))
    torch.manual_seed(0)
    loaded = build_model(config, tokenizer)
    # Words only: random weights would as soon repeat a line break for ever, or end before the first word.
    wordless = [i for i in range(len(tokenizer)) if not tokenizer.decode([i]).strip().isalpha()]
    loaded.model.language.get_output_embeddings().weight.data[wordless] = 0
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(loaded.model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def make_qwen(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes tiny Qwen3-VLs as transformers does; it takes what `write_qwen` takes."""
    sys.path.append(str(ROOT / "tests" / "model"))
    from qwen_fixtures import write_qwen
    return lambda **how: write_qwen(tmp_path_factory.mktemp("models") / "tiny_qwen", tied=False, **how)


@pytest.fixture(scope="session")
def tiny_qwen(make_qwen: Callable[..., Path]) -> Path:
    """A Qwen3-VL of random weights: it says words, up to the limit of tokens."""
    return make_qwen(words=True)
