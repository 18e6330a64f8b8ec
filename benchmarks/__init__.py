"""What the README's figures come from: `python -m benchmarks.NAME --json FILE`. Every figure is a ratio of one run."""
