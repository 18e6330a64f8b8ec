"""`find_evidence` through the node: the training records that a region resembles, and clear statuses for all else."""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from answering import BOXES, perception_here  # noqa: E402
from camera import HEIGHT, WIDTH, Camera  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Region, RegionDescriptionArray  # noqa: E402
from ros_gpt4roi_interfaces.srv import FindEvidence  # noqa: E402
from ros_peer import Peer  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from ros_gpt4roi.messages import box_to_message  # noqa: E402
from ros_gpt4roi.nodes.perception import Perception  # noqa: E402
from ros_gpt4roi.runtime.evidence import EvidenceIndex, write_index  # noqa: E402
from training.data.__main__ import main  # noqa: E402

pytestmark = pytest.mark.slow
_SETTINGS = {"pipeline.vision.backend": "torch", "pipeline.answer_tokens": 8, "pipeline.description_tokens": 8,
             "qos.image.reliability": "reliable", "qos.detections.reliability": "reliable",
             "scheduler.answer_timeout_s": 600.0, "scheduler.description_timeout_s": 600.0}


@pytest.fixture(scope="module")
def records(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures with a region each, and their index."""
    folder = tmp_path_factory.mktemp("records")
    with (folder / "records.jsonl").open("w") as file:
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), pixels)
            file.write(json.dumps({"file": f"{number}.png", "width": WIDTH, "height": HEIGHT, "regions": [
                {"id": "a", "box": BOXES[0], "name": f"valve {number}", "source": "person"}]}) + "\n")
    assert main(["index", str(folder), "--model", str(tiny_model)]) == 0
    return folder


@pytest.fixture(scope="module")
def node(peer: Peer, tiny_model: Path, records: Path) -> Iterator[Perception]:
    with perception_here(peer, tiny_model, {**_SETTINGS, "evidence.records": str(records)}) as node:
        yield node


def find(peer: Peer, region: Region, **fields: object) -> FindEvidence.Response:
    return peer.call(FindEvidence, "find_evidence", FindEvidence.Request(region=region, **fields))


def test_a_region_is_told_the_records_that_it_resembles(peer: Peer, node: Perception, records: Path) -> None:
    assert find(peer, Region(id="1")).status == Answer.NO_FRAME
    descriptions = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    Camera(peer).send(BOXES)
    header: Header = peer.wait_for(lambda: descriptions and descriptions[-1], "descriptions").header
    response = find(peer, Region(id="2"), header=header, most=3)
    assert response.status == Answer.OK, response.error
    distances = [record.distance for record in response.records]
    assert len(distances) == 3 and distances == sorted(distances) and distances[0] > 0
    for record in response.records:
        assert record.name == f"valve {record.file[0]}" and record.source == "person" and record.region_id == "a"
        assert cv2.imdecode(np.frombuffer(record.jpeg, np.uint8), cv2.IMREAD_COLOR) is not None
        assert record.bbox == box_to_message(BOXES[0])
    own = find(peer, Region(bbox=box_to_message(BOXES[1])), header=header)
    assert len(own.records) == 5 and own.records[0].distance == pytest.approx(distances[0], abs=1e-3), "the same box"
    for bad, status, words in ((Region(id="7"), Answer.UNKNOWN_REGION, "no region '7'"),
                               (Region(bbox=box_to_message((900, 0, 990, 9))), Answer.INVALID, "outside the image")):
        refused = find(peer, bad)
        assert refused.status == status and words in refused.error and not refused.records
    assert find(peer, Region(id="1"), most=99).status == Answer.INVALID
    # An index of another model is told, and a new one is taken without a restart.
    index = EvidenceIndex(records)
    regions = [index[place] for place in range(len(index))]
    write_index(records, "other@0", np.array(index.embeddings), regions)
    node._evidence._index = None
    refused = find(peer, Region(id="1"))
    assert refused.status == Answer.INVALID and "is of model other@0, but" in refused.error
    (records / "region_index.safetensors").unlink()
    assert "is not there; make it by" in find(peer, Region(id="1")).error
    write_index(records, index.model, np.array(index.embeddings), regions)
    assert find(peer, Region(id="1")).status == Answer.OK


def test_records_that_are_not_there_are_told_at_the_start(peer: Peer, tiny_model: Path, tmp_path: Path) -> None:
    with perception_here(peer, tiny_model, {**_SETTINGS, "evidence.records": str(tmp_path / "none")}):
        received = peer.collect(DiagnosticArray, "/diagnostics", 10)
        peer.wait_for(lambda: any(f"{tmp_path}/none/" in pair.value and "is not there; make it by" in pair.value
                                  for message in received for status in message.status for pair in status.values),
                      "the missing index")


def test_without_records_the_service_says_so(peer: Peer, tiny_model: Path) -> None:
    with perception_here(peer, tiny_model, _SETTINGS):
        response = find(peer, Region(id="1"))
    assert response.status == Answer.INVALID and "evidence.records is empty" in response.error
