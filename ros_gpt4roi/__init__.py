"""GPT4RoI on a robot: descriptions of, and answers about, boxes in camera frames."""

import os

# Nothing here phones home. Libraries read these when they are imported, so they are set before any of them is; who sets
# one differently has decided so.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")
