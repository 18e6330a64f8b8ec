"""Files as they lie on the disk, and disks that fail."""
from __future__ import annotations

import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mcap.exceptions import EndOfFile
from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.recording.bag_folder import BagFolder, Serialised, StorageOptions
from ros_gpt4roi.recording.blackout import Withheld
from ros_gpt4roi.recording.writer import BagWriter, Pending

ROOT = Path(__file__).resolve().parents[2]
TYPE = "std_msgs/msg/String"
DEFINITIONS = {TYPE: "string data"}
LIMIT_S = 60


def message(number: int, size: int = 100) -> Serialised:
    return Serialised("/text", TYPE, number.to_bytes(4, "little") + b"x" * size, 1000 + number)


def options(folder: Path, **changes: int) -> StorageOptions:
    return StorageOptions(folder=folder, **{"min_free_mib": 0, **changes})


def cut(path: Path) -> list[int]:
    """The numbers of the messages of a file without an end."""
    found = []
    with path.open("rb") as file, pytest.raises(EndOfFile):
        for record in StreamReader(file).records:
            if isinstance(record, Message):
                found.append(int.from_bytes(record.data[:4], "little"))
    return found


def wait_for(condition: object, what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.01)


def test_a_file_has_its_definitions_and_is_its_users_alone(tmp_path: Path) -> None:
    bag = BagFolder(options(tmp_path / "new"), DEFINITIONS)
    for number in range(3):
        bag.write(message(number))
    path = bag.path
    assert path is not None and cut(path) == [0, 1, 2], "on its way to the disk before the file ends"
    bag.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with path.open("rb") as file:
        reader = make_reader(file)
        assert reader.get_header().profile == "ros2"
        read = [(schema.name, schema.encoding, schema.data, channel.topic, found.data, found.log_time)
                for schema, channel, found in reader.iter_messages()]
    assert read == [(TYPE, "ros2msg", b"string data", "/text", message(number).data, 1000 + number)
                    for number in range(3)]


def test_the_oldest_file_goes_first(tmp_path: Path) -> None:
    other = tmp_path / "not_ours.mcap"
    other.write_bytes(b"x" * 3 * 2**20)
    bag = BagFolder(options(tmp_path, max_mib=3, file_mib=1), DEFINITIONS)
    for number in range(50):
        bag.write(message(number, 200_000))
    bag.close()
    files = sorted(tmp_path.glob("recording_*.mcap"))
    assert sum(path.stat().st_size for path in files) <= 3.3 * 2**20 and other.exists() and bag.removed >= 5
    with files[-1].open("rb") as file:
        assert [found.log_time for *_, found in make_reader(file).iter_messages()][-1] == 1049
    with pytest.raises(ConfigError, match="expected at least twice file_mib"):
        options(tmp_path, max_mib=3, file_mib=2)


def test_the_oldest_file_goes_first_also_where_the_clock_was_set_back(tmp_path: Path) -> None:
    earlier = tmp_path / "recording_20990101T000000000000.mcap"
    earlier.write_bytes(b"x" * 2**20)
    bag = BagFolder(options(tmp_path, max_mib=3, file_mib=1), DEFINITIONS)
    for number in range(20):
        bag.write(message(number, 200_000))
    bag.close()
    files, numbers = sorted(tmp_path.glob("recording_*.mcap")), []
    assert earlier not in files
    for path in files:
        with path.open("rb") as file:
            numbers += [found.log_time - 1000 for *_, found in make_reader(file).iter_messages()]
    assert len(numbers) >= 6 and numbers == list(range(20 - len(numbers), 20))


def test_room_is_left_for_others(tmp_path: Path) -> None:
    bag = BagFolder(options(tmp_path, min_free_mib=10**9), DEFINITIONS)
    with pytest.raises(OSError, match=r"MiB are free, expected 1000000000 MiB \(storage.min_free_mib\)"):
        bag.write(message(0))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_whole_messages(tmp_path: Path) -> None:
    """RLIMIT_FSIZE fails a write in its middle, as a full disk does."""
    code = """
import resource, sys
from pathlib import Path
from ros_gpt4roi.recording.bag_folder import BagFolder, Serialised, StorageOptions
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
bag = BagFolder(StorageOptions(folder=Path(sys.argv[1]), min_free_mib=0), {"std_msgs/msg/String": "string data"})
for number in range(100):
    try:
        bag.write(Serialised("/text", "std_msgs/msg/String", number.to_bytes(4, "little") + b"x" * 30_000, number))
    except OSError as error:
        print(number, error.errno, bag.path)
        break
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["3", "27", "None"], done.stdout + done.stderr
    path, = tmp_path.iterdir()
    assert cut(path) == [0, 1, 2]


def test_a_folder_that_vanishes_stops_the_recording_until_it_is_back(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.recording.writer._RETRY_S", 0.05)
    folder = tmp_path / "disk"
    bag = BagFolder(options(folder), DEFINITIONS)
    writer = BagWriter(bag, 2**20)
    put = lambda number: writer.put(Pending(lambda: message(number), 100))  # noqa: E731
    put(0)
    wait_for(lambda: writer.counts["messages"] == 1, "the first message")
    shutil.rmtree(folder)
    put(1)
    wait_for(lambda: writer.failure, "the failure")
    assert "No such file" in writer.failure and not folder.exists()
    folder.mkdir()
    wait_for(lambda: put(2) or not writer.failure, "the recording to go on")
    writer.close()
    assert writer.counts["dropped, the disk failed"] >= 1
    path, = folder.iterdir()
    with path.open("rb") as file:
        assert [found.log_time for *_, found in make_reader(file).iter_messages()][0] == 1002


def test_a_slow_disk_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.recording.writer._SLOW_S", 0.0)
    hanging, go_on = threading.Event(), threading.Event()

    def hang() -> Serialised:
        hanging.set()
        assert go_on.wait(LIMIT_S)
        return message(0)

    writer = BagWriter(BagFolder(options(tmp_path), DEFINITIONS), 1000)
    writer.put(Pending(hang, 900))
    assert hanging.wait(LIMIT_S)
    for number in range(1, 5):
        writer.put(Pending(lambda number=number: message(number), 400))  # type: ignore[misc]
    assert writer.counts["dropped, the disk is too slow"] == 2
    assert "has not taken a message" in writer.slow()
    go_on.set()
    writer.close()
    assert writer.counts["messages"] == 3 and not writer.slow() and not writer.failure


def test_what_cannot_be_made_costs_only_itself(tmp_path: Path) -> None:
    def withheld() -> Serialised:
        raise Withheld("a reason")

    def broken() -> Serialised:
        raise ValueError("no picture")

    writer = BagWriter(BagFolder(options(tmp_path), DEFINITIONS), 1000)
    for make in (withheld, broken, lambda: message(0)):
        writer.put(Pending(make, 10))
    writer.close()
    assert (writer.counts["withheld: a reason"], writer.counts["not written"], writer.counts["messages"]) == (1, 1, 1)


def test_a_killed_process_leaves_what_it_wrote(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from ros_gpt4roi.recording.bag_folder import BagFolder, Serialised, StorageOptions
bag = BagFolder(StorageOptions(folder=Path(sys.argv[1]), min_free_mib=0), {"std_msgs/msg/String": "string data"})
for number in range(5):
    bag.write(Serialised("/text", "std_msgs/msg/String", number.to_bytes(4, "little"), number))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    path, = tmp_path.iterdir()
    assert cut(path) == list(range(5))
