"""Which transports nodes and clients take."""
from __future__ import annotations

import os

import pytest

from ros_gpt4roi.transport import use_large_messages

VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")


@pytest.mark.parametrize("name", VARIABLES)
def test_transports_that_the_environment_names_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "given")
    use_large_messages()
    assert {variable: os.environ[variable] for variable in VARIABLES if variable in os.environ} == {name: "given"}
    monkeypatch.setenv(name, "")  # an empty variable names nothing
    use_large_messages()
    assert os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("fastdds.xml")
