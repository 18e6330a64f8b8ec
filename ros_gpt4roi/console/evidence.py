"""Training records that a region resembles, as a page shows them."""

from __future__ import annotations

import base64
from typing import Any

from ros_gpt4roi_interfaces.srv import FindEvidence

from ros_gpt4roi.client import status_name

from .frames import finite

_MOST_PICTURE = 256 << 10  # bytes of a small JPEG


def evidence(response: FindEvidence.Response | str) -> dict[str, Any]:
    """The part of a message to a page.

    Args:
        response: What the node says, or why it says nothing.
    """
    if isinstance(response, str):
        return {"error": response, "records": []}
    error = "" if status_name(response) == "OK" else f"{status_name(response)}: {response.error}"
    return {"error": error, "records": [
        {"file": record.file, "region": record.region_id, "name": record.name, "description": record.description,
         "source": record.source, "distance": finite(record.distance, 4),
         "jpeg": base64.b64encode(bytes(record.jpeg)).decode() if len(record.jpeg) <= _MOST_PICTURE else ""}
        for record in response.records]}
