"""Training: data sets, the two stages, evaluation. Run from a checkout; not installed on the robot."""

import ros_gpt4roi  # noqa: F401  (before any other library: it keeps them from phoning home)
