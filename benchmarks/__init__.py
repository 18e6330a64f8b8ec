"""What the README's figures come from: `python -m benchmarks.NAME --json FILE`. Every figure is a ratio of one run."""

import ros_gpt4roi  # noqa: F401  (before any other library: it keeps them from phoning home)
