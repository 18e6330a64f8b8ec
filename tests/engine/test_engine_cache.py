from __future__ import annotations

import dataclasses
import gc
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.engine.build_process import Progress
from ros_gpt4roi.engine.cache import CacheError, EngineCache, EngineKey, verify
from ros_gpt4roi.engine.gate import read_report

KEY = EngineKey(onnx="a" * 64, library="tensorrt", version="10.3.0", gpu="Orin", capability="8.7", driver="540.4",
                shapes="frames 1..1..2", precision="fp16")
PLAN = bytes(range(256)) * 64


@pytest.fixture
def stored(cache: EngineCache, tmp_path: Path) -> Path:
    (tmp_path / "plan").write_bytes(PLAN)
    return cache.store("entry", KEY, tmp_path / "plan", {"seconds": 1.0, "peak_mib": 2}).path


def test_stored_plan_comes_back_whole(cache: EngineCache, stored: Path) -> None:
    engine = cache.load("entry", KEY)
    assert bytes(engine.plan) == PLAN
    assert engine.header["peak_mib"] == 2
    assert list(cache.folder.glob(".*partial")) == []


def test_folder_is_private_even_where_it_was_not(cache: EngineCache) -> None:
    cache.folder.chmod(0o755)
    assert EngineCache(cache.folder).folder == cache.folder
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("names", [(), (".build-old", ".slot.x.partial")])
def test_a_folder_of_others_is_neither_changed_nor_cleaned(tmp_path: Path, names: tuple[str, ...]) -> None:
    others = tmp_path / "open"
    others.mkdir(mode=0o755)
    for name in names:
        (others / name).write_text("not ours")
        os.utime(others / name, (1e9, 1e9))
    cache = EngineCache(others)
    assert stat.S_IMODE(others.stat().st_mode) == 0o755
    assert cache.folder.parent == others and {path.name for path in others.iterdir()} == {cache.folder.name, *names}
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert EngineCache(others).folder == cache.folder == EngineCache(cache.folder).folder


def test_a_folder_that_only_has_the_name_of_a_cache_is_left_alone(tmp_path: Path) -> None:
    own = EngineCache(tmp_path.parent).folder
    (own / ".ros_gpt4roi_engines").unlink()
    own.chmod(0o755)
    try:
        assert own not in EngineCache(tmp_path.parent).folder.parents
        assert stat.S_IMODE(own.stat().st_mode) == 0o755 and not list(own.iterdir())
    finally:
        own.rmdir()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"),
                                  lambda path: path.write_bytes(os.urandom(5000))])
def test_garbage_in_place_of_an_engine_and_its_report_is_refused_and_replaced(
        cache: EngineCache, stored: Path, tmp_path: Path, make: Callable[[Path], object]) -> None:
    for path in (stored, report := cache.report_path("entry")):
        path.unlink(missing_ok=True)
        make(path)
    with pytest.raises(CacheError):
        cache.load("entry", KEY)
    assert read_report(report) is None
    cache.store("entry", KEY, tmp_path / "plan", {})
    assert bytes(cache.load("entry", KEY).plan) == PLAN


@pytest.mark.parametrize(("field", "value"), [
    ("onnx", "b" * 64), ("library", "tensorrt_rtx"), ("version", "10.4.0"), ("gpu", "Thor"), ("capability", "11.0"),
    ("driver", "580.1"), ("shapes", "frames 1..4..8"), ("precision", "bf16")])
def test_stale_engine_is_not_used_and_the_reason_named(
        cache: EngineCache, stored: Path, field: str, value: str) -> None:
    with pytest.raises(CacheError, match=f"stale, {field} was "):
        cache.load("entry", dataclasses.replace(KEY, **{field: value}))


@pytest.mark.parametrize("place", [0, 9, 20, 60, -len(PLAN), -1])
def test_flipped_byte_is_found(cache: EngineCache, stored: Path, place: int) -> None:
    data = bytearray(stored.read_bytes())
    data[place] ^= 0x40
    stored.write_bytes(data)
    with pytest.raises(CacheError, match="tampered|foreign|truncated"):
        cache.load("entry", KEY)


@pytest.mark.parametrize("length", [0, 10, 44, 300, -1])
def test_cut_file_is_found(cache: EngineCache, stored: Path, length: int) -> None:
    stored.write_bytes(stored.read_bytes()[:length])
    with pytest.raises(CacheError, match="truncated|tampered"):
        cache.load("entry", KEY)


def test_file_that_others_may_write_is_foreign(cache: EngineCache, stored: Path) -> None:
    stored.chmod(0o666)
    with pytest.raises(CacheError, match="foreign"):
        verify(stored)


def test_some_other_file_is_foreign(cache: EngineCache, stored: Path) -> None:
    stored.write_bytes(b"ftrt" + PLAN)
    with pytest.raises(CacheError, match="not an engine file"):
        cache.load("entry", KEY)


def test_missing_engine_says_so(cache: EngineCache) -> None:
    with pytest.raises(CacheError, match="not built yet"):
        cache.load("entry", KEY)


def test_new_engine_replaces_the_old_and_its_report(cache: EngineCache, stored: Path, tmp_path: Path) -> None:
    cache.report_path("entry").write_text("{}")
    (tmp_path / "plan").write_bytes(b"newer")
    newer = dataclasses.replace(KEY, version="10.4.0")
    cache.store("entry", newer, tmp_path / "plan", {})
    assert bytes(cache.load("entry", newer).plan) == b"newer"
    assert not cache.report_path("entry").exists()
    assert len(cache.files()) == 1


def test_failed_store_leaves_the_old_engine(
        cache: EngineCache, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "plan").write_bytes(b"newer")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cache.store("entry", KEY, tmp_path / "plan", {})
    assert bytes(cache.load("entry", KEY).plan) == PLAN
    assert list(cache.folder.glob(".*partial")) == []


def test_unwritable_folder_is_replaced_by_a_private_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Below a file: that refuses root, too, as which containers run tests.
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        cache = EngineCache(tmp_path / "file" / "engines")
    assert "cannot be used" in caplog.text and str(tmp_path) in caplog.text
    (tmp_path / "plan").write_bytes(PLAN)
    cache.store("entry", KEY, tmp_path / "plan", {})
    assert bytes(cache.load("entry", KEY).plan) == PLAN
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    # It lasts as long as the process: who opened a cache has long let go of it when its files are read.
    folder = cache.folder
    del cache
    gc.collect()
    assert EngineCache(tmp_path / "file" / "engines").folder == folder
    assert (folder / "entry.engine").exists()


def test_what_a_killed_build_left_behind_is_removed_once_old(cache: EngineCache) -> None:
    old, young, partial = (cache.folder / name for name in (".build-old", ".build-young", ".entry.x.partial"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "plan").write_bytes(PLAN)
    partial.write_bytes(PLAN)
    for path in (old, partial):
        os.utime(path, (1e9, 1e9))
    EngineCache(cache.folder)
    assert not old.exists() and not partial.exists() and young.exists()


def test_second_one_waits_for_the_lock_and_is_told(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    held, waiting, release = threading.Event(), threading.Event(), threading.Event()
    waited: list[bool] = []
    told: list[Progress] = []

    def hold() -> None:
        with cache.lock("entry", 5) as before:
            waited.append(before)
            held.set()
            release.wait(20)

    def follow() -> None:
        with cache.lock("entry", 20, told.append) as before:
            waited.append(before)

    def note(record: logging.LogRecord) -> bool:
        waiting.set()
        return True

    threads = [threading.Thread(target=hold), threading.Thread(target=follow)]
    threads[0].start()
    assert held.wait(20)
    with pytest.raises(EngineError, match=f"process {os.getpid()} has been at it"), cache.lock("entry", 0.0):
        pass
    logger = logging.getLogger(EngineCache.__module__)
    caplog.set_level(logging.INFO, logger.name)
    logger.addFilter(note)
    try:
        threads[1].start()
        assert waiting.wait(20)
    finally:
        logger.removeFilter(note)
        release.set()
    for thread in threads:
        thread.join(20)
    assert waited == [False, True]
    assert f"process {os.getpid()} works on engine entry, waiting at most 20 s" in caplog.text
    assert told[0].step == f"waiting for process {os.getpid()}, which works on engine entry"
    assert 0 <= told[0].fraction <= 1
