"""What can be wrong with a training."""

from __future__ import annotations

from ros_gpt4roi.configuration import ConfigError


class RecipeError(ConfigError):
    """A recipe that cannot be run; the message names the file, the field and what was expected."""
