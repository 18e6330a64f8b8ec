"""What all tests share: a ROS domain of their own and log files of their own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from isolation import claim_domain, variables  # noqa: E402

import ros_gpt4roi  # noqa: E402, F401  (before any other library: it keeps them from phoning home)

# Set before any test imports rclpy, and inherited by the processes that tests start.
_domain, _domain_claim = claim_domain()
_ros_home = Path(tempfile.mkdtemp(prefix="ros_gpt4roi_tests_"))
os.environ.update(variables(_domain, _ros_home))


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
