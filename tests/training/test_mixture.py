"""The mixture: every data set in one sequence, the same for the same seed, epoch and position."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import training_fixtures as fixtures

from ros_gpt4roi.model.checkpoint import read_config
from ros_gpt4roi.model.config import ModelConfig
from ros_gpt4roi.model.prompt import PromptBuilder, PromptError
from ros_gpt4roi.paths import find_model
from training.data import check_section, open_dataset
from training.data.coco import Coco
from training.data.index import Index, open_index
from training.data.mixture import Mixture, Part, open_mixture, pack
from training.data.record import Record, RecordError, Round, check_record, references
from training.data.visual_genome import VisualGenome
from training.from_scratch.tokenizer import train_tokenizer


def same(a: Record, b: Record) -> bool:
    return a.rounds == b.rounds and np.array_equal(a.boxes, b.boxes) and np.array_equal(a.image, b.image)


def test_every_data_set_goes_into_one_epoch(tmp_path):
    mixture = open_mixture(fixtures.section(tmp_path), seed=1)
    records = [check_record(mixture[p]) for p in range(len(mixture))]
    assert Counter(record.source.split()[0] for record in records) == {
        "coco": 2, "refcoco": 1, "refcoco+": 1, "refcocog": 1, "flickr": 1, "visual": 2, "vcr": 5, "llava": 1}
    assert all(record.image.shape == (80, 100, 3) and record.image.dtype == np.uint8 for record in records)


def test_seed_and_epoch_decide_everything(tmp_path):
    section = fixtures.section(tmp_path)
    first, again, other = open_mixture(section, 1), open_mixture(section, 1), open_mixture(section, 2)
    count = len(first)
    # Read in another order, as another worker or a resumed run would.
    backwards = {p: again[p] for p in reversed(range(2 * count))}
    assert all(same(first[p], backwards[p]) for p in range(2 * count))
    assert not all(same(first[p], first[p + count]) for p in range(count)), "epochs differ"
    assert not all(same(first[p], other[p]) for p in range(count)), "seeds differ"


def test_an_epoch_visits_every_image_once_and_ratios_hold(tmp_path):
    for number in range(10):
        fixtures.image(tmp_path / "train2017" / f"{number}.jpg")
    values = fixtures.coco(
        tmp_path,
        images=[{"id": n, "file_name": f"{n}.jpg", "height": 80, "width": 100} for n in range(10)],
        annotations=[{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 40, 40], "area": 9} for n in range(10)],
    )
    coco = fixtures.source(Coco, values, tmp_path)

    def visited(ratio: float, epoch: int) -> Counter:
        mixture = Mixture([Part(coco, ratio)], 0, 0)
        return Counter(mixture.locate(epoch * len(mixture) + p).image for p in range(len(mixture)))

    assert visited(1, 0) == Counter(range(10))
    assert set(visited(2.5, 0).values()) == {2, 3} and visited(2.5, 0).total() == 25
    share = [visited(0.3, epoch) for epoch in range(20)]
    assert all(counts.total() == 3 and max(counts.values()) == 1 for counts in share)
    assert len(set().union(*share)) == 10, "the share changes with the epoch"


def test_a_second_visit_in_an_epoch_says_something_else(tmp_path):
    source = fixtures.source(VisualGenome, fixtures.visual_genome(tmp_path), tmp_path)
    mixture = Mixture([Part(source, 8.0)], 0, 0)
    assert len({str(mixture[p].rounds) for p in range(8)}) > 4


def test_conversations_of_one_image_become_one_record_with_their_regions_renumbered():
    def record(boxes, question, answer):
        return Record("x.jpg", np.asarray(boxes, np.float32), (Round(question, answer),), "x")

    packed = pack([
        record([[0, 0, 9, 9], [5, 5, 8, 8]], "<region1> or <region2>?", "<region2>"),
        record([[5, 5, 8, 8], [1, 1, 2, 2]], "<box2> or <region1>?", "<region1>"),
    ])
    assert packed.boxes.tolist() == [[0, 0, 9, 9], [5, 5, 8, 8], [1, 1, 2, 2]]
    assert [(turn.question, turn.answer) for turn in packed.rounds] == [
        ("<region1> or <region2>?", "<region2>"), ("<box3> or <region2>?", "<region2>")]
    check_record(packed)


def test_flickr_visits_pack_all_captions(tmp_path):
    section = {"cache": tmp_path / "c", "sources": [{"type": "flickr", **fixtures.flickr(tmp_path)}]}
    record = open_mixture(section, 0)[0]
    assert {number for turn in record.rounds for number in references(turn.question)} == {1, 2, 3, 4}


@pytest.mark.parametrize("content", fixtures.BROKEN_PICTURES.values(), ids=fixtures.BROKEN_PICTURES)
def test_an_unreadable_image_is_counted_once_and_replaced_up_to_the_limit(tmp_path, content):
    values = fixtures.coco(tmp_path)
    section = {"cache": tmp_path / "cache", "malformed_limit": 1, "sources": [{"type": "coco", **values}]}
    mixture = open_mixture(section, 0)
    (tmp_path / "train2017" / "000000000009.jpg").write_bytes(content)
    assert {mixture[p].source for p in range(20)} == {"coco 25"}, "ten epochs"
    assert mixture.malformed.malformed == 1 and "000000000009.jpg" in mixture.malformed.errors[0]
    (tmp_path / "train2017" / "000000000025.jpg").write_bytes(content)
    with pytest.raises(RecordError, match="more than 1 malformed items(.|\n)*000000000009.jpg(.|\n)*000000000025.jpg"):
        mixture[0]


@pytest.mark.parametrize(("change", "words"), [
    ({"sources": []}, "sources is missing"),
    ({"sources": [{"type": "imagenet"}]}, "expected one of coco"),
    ({"sources": [{"type": "coco", "annotations": "x"}]}, "images is missing"),
    ({"sources": [{"type": "coco", "annotations": "x", "images": "y", "box": 1}]}, "box is unknown"),
    ({"sources": [{"type": "coco", "annotations": "x", "images": "y"}]}, "x does not exist"),
    ({"sources": ["coco"]}, "is 'coco', expected a mapping"),
    ({"sources": [{"type": "coco", "annotations": "x", "images": "y", "ratio": 0}]}, "ratio is 0, expected a number"),
    ({"limit": 3}, "limit is unknown"),
    ({"sources": [{"type": "coco", "annotations": "x", "images": "y", "max_regions": 0}]},
     r"sources\[0\] \(coco\): max_regions is 0, expected a whole number, at least 1"),
    ({"sources": [{"type": "coco", "annotations": "x", "images": "y", "boxes": {"min_side": -1}}]},
     "boxes.min_side is -1, expected a number, at least 0 pixels"),
    ({"sources": [{"type": "llava", "annotations": "x", "images": "y", "detections": "z", "box_share": 2}]},
     "box_share is 2, expected a number, 0 to 1"),
    ({"sources": [{"type": "vcr", "annotations": "x", "images": "y", "form": "both"}]},
     "form is 'both', expected all, single, multi, answer or rationale"),
])
def test_a_wrong_data_section_is_explained(tmp_path, change, words):
    section = {"cache": tmp_path / "cache", "sources": [{"type": "coco"}]} | change
    with pytest.raises(RecordError, match=words):
        open_mixture(section, 0)
    if "does not exist" not in words:  # all else is known before anything is opened
        with pytest.raises(RecordError, match=words):
            check_section({"kind": "mixture", **section})


def test_the_annotation_file_is_parsed_once_for_all_processes(tmp_path):
    scans = []

    def scan(report):
        scans.append(threading.get_ident())
        yield from ({"n": n} for n in range(3))

    source = fixtures.write(tmp_path / "a.json", [])
    arguments = (tmp_path / "cache", "set", [source], {"k": 1})
    threads = [threading.Thread(target=open_index, args=(*arguments, scan, 0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    index = open_index(*arguments, scan, 0)
    assert len(scans) == 1 and [index[n]["n"] for n in range(3)] == [0, 1, 2]
    open_index(*arguments[:3], {"k": 2}, scan, 0)
    assert len(scans) == 2, "other options make another index"
    source.write_text("[1]")
    open_index(*arguments, scan, 0)
    assert len(scans) == 3, "a changed file makes another index"


def test_a_failed_scan_leaves_no_index(tmp_path):
    def scan(report):
        yield {}
        report.fail("broken")

    source = fixtures.write(tmp_path / "a.json", [])
    with pytest.raises(RecordError, match="broken"):
        open_index(tmp_path / "cache", "set", [source], {}, scan, 0)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_workers_map_the_index_instead_of_copying_it(tmp_path):
    def scan(report):
        yield from ({"text": "x" * 1000} for _ in range(1000))

    source = fixtures.write(tmp_path / "a.json", [])
    index = open_index(tmp_path / "cache", "set", [source], {}, scan, 0)
    content = pickle.dumps(index)
    assert len(content) < 2000
    copy: Index = pickle.loads(content)
    assert copy[999] == index[999]
    assert Path(copy.folder).is_dir()


def test_the_trainer_gets_network_inputs_and_another_epoch_other_texts(tmp_path):
    values = {"kind": "mixture", **fixtures.section(tmp_path)}
    dataset = open_dataset(values, tmp_path, 1, read_config(find_model("tabletop")))
    size = read_config(find_model("tabletop")).preprocess.image_size
    samples = [dataset[i] for i in range(len(dataset))]
    for sample in samples:
        assert sample.image.shape == (size, size, 3) and sample.image.dtype == np.uint8
        assert sample.boxes.min(initial=0) >= 0 and sample.boxes.max(initial=0) <= 1
    dataset.set_epoch(1)
    assert [sample.rounds for sample in samples] != [dataset[i].rounds for i in range(len(dataset))]
    dataset.set_epoch(0)
    assert [sample.rounds for sample in samples] == [dataset[i].rounds for i in range(len(dataset))]


def test_a_conversation_cut_at_the_contexts_end_keeps_an_embedding_for_every_region_token(tmp_path):
    """A packed record goes through the prompt builder at many context lengths: tokens and splice places agree."""
    mixture = open_mixture(fixtures.section(tmp_path), seed=1)
    records = [mixture[p] for p in range(len(mixture))]
    texts = [text for record in records for turn in record.rounds for text in (turn.question, turn.answer)]
    config = read_config(find_model("tabletop"))
    tokenizer = train_tokenizer(iter(texts), 400, config.prompt.template)
    whole = PromptBuilder(tokenizer, with_context(config, 4096), image_tokens=4)
    cut = 0
    for record in records:
        rounds = [(turn.question, turn.answer) for turn in record.rounds]
        longest = len(whole.encode(rounds, len(record.boxes)).input_ids)
        for context in range(longest, longest // 2, -7):
            builder = PromptBuilder(tokenizer, with_context(config, context), image_tokens=4)
            try:
                encoded = builder.encode(rounds, len(record.boxes))
            except PromptError:
                continue
            cut += encoded.dropped_rounds > 0
            assert len(encoded.input_ids) <= context
            tokens = [place for place, token in enumerate(encoded.input_ids) if token in builder.region_ids]
            spliced = [place for place, index in enumerate(encoded.region_index) if index >= 0]
            assert tokens == spliced
            assert all(index < len(record.boxes) for index in encoded.region_index)
    assert cut > 10, "conversations must really have been cut"


def with_context(config: ModelConfig, context: int) -> ModelConfig:
    return dataclasses.replace(config, prompt=dataclasses.replace(config.prompt, context=context))
