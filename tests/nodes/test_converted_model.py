"""A converted checkpoint of the published layout (random weights) describes regions through the perception node."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from camera import Camera  # noqa: E402
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402

BOXES = ((2, 2, 20, 20), (30, 10, 60, 40))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    sys.path.append(str(root / "tests" / "model"))
    from model_fixtures import sentencepiece_like, tiny_config
    from published import draw, tiny_shapes, write_folder

    from ros_gpt4roi.model.convert import plan_published

    folder, words = tmp_path_factory.mktemp("published"), sentencepiece_like()
    config = tiny_config(len(words))
    published, encoder = tiny_shapes(config, len(words))
    weights = draw(published, 1)
    # Words only: random weights would as soon end before the first one.
    wordless = [i for i in range(len(words)) if not words.decode([i]).strip().isalpha()]
    weights["lm_head.weight"][wordless] = 0
    write_folder(folder / "theirs", weights, "bin", tokenizer=words)
    write_folder(folder / "clip", draw(encoder, 2), count=1)
    plan_published(folder / "theirs", folder / "clip", config=config).run(folder / "ours", progress=False)
    return folder / "ours"


@pytest.fixture(scope="module")
def node(peer: Peer, converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(
        "perception", tmp_path_factory.mktemp("log") / "perception.log", model=converted,
        qos__image__reliability="reliable", qos__detections__reliability="reliable",
        pipeline__vision__backend="torch", pipeline__description_tokens=10)
    peer.watch(process)
    yield process
    assert process.stop() == 0, process.output()


def test_a_converted_checkpoint_describes(peer: Peer, node: Process) -> None:
    descriptions = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    header = Camera(peer).send(BOXES)
    message = peer.wait_for(lambda: next((m for m in descriptions if m.header == header), None), "descriptions")
    assert [d.region.id for d in message.descriptions] == ["1", "2"]
    assert all(d.text and d.confidence > 0 for d in message.descriptions)
