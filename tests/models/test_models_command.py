"""`python -m ros_gpt4roi.models`, its downloads from a server of the Hub's kind."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hub_server import COMMIT, LATER, Hub
from huggingface_hub import constants

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.model.checkpoint import load_any
from ros_gpt4roi.models import catalogue, download
from ros_gpt4roi.models.__main__ import main
from ros_gpt4roi.models.installed import read_record
from ros_gpt4roi.paths import find_model

ENTRY = {"about": "tiny", "repository": "owner/tiny", "licence": "Apache-2.0", "tried": "all of it",
         "licence_page": "https://www.apache.org/licenses/LICENSE-2.0",
         "files": ["config.json", "preprocessor_config.json", "tokenizer*.json", "model*.safetensors"]}
GET = ["get", "tiny", "--accept-licence"]


@pytest.fixture
def hub(tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server, a catalogue with its repository, and an empty folder for the user's data."""
    hub = Hub(tiny_qwen)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # as HF_ENDPOINT sets them
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(catalogue, "FILE", tmp_path / "catalogue.yaml")
    write_entries(tiny=ENTRY, pinned={**ENTRY, "revision": COMMIT})
    yield hub
    hub.closed.set()
    hub.shutdown()
    thread.join()
    hub.server_close()


def write_entries(**entries: dict) -> None:
    catalogue.FILE.write_text(yaml.safe_dump(entries))


def models(tmp_path: Path) -> list[str]:
    """What lies in the user's folder of models."""
    folder = tmp_path / "data" / "ros_gpt4roi" / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_model_is_got_and_loads_by_its_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["list"]) == 0 and main(GET) == 0, capsys.readouterr()
    assert f"owner/tiny at {COMMIT}" in (shown := capsys.readouterr().out) and "Apache-2.0" in shown
    folder = find_model("tiny")
    assert load_any(folder).model.language.config.num_hidden_layers == 4
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
        "download.json"}
    assert models(tmp_path) == ["tiny"]
    # Nothing but the listing and these files was asked for, and nobody's token was sent.
    assert all(path.startswith(("/api/models/owner/tiny", "/owner/tiny/resolve/", "/cdn/")) for path, _ in hub.requests)
    assert not [headers for _, headers in hub.requests if "authorization" in headers]
    hub.requests.clear()
    assert main(GET) == 0 and main(["list"]) == 0 and main(["card", "tiny"]) == 0 and not hub.requests
    shown = capsys.readouterr().out
    assert "tiny is here: " in shown and f"owner/tiny at {COMMIT}, licence Apache-2.0" in shown
    assert "qwen3_vl of transformers" in shown


def test_an_interrupted_download_goes_on_with_the_same_commit(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    weights = hub.files["model.safetensors"]
    work = tmp_path / "data/ros_gpt4roi/models/.tiny.unfinished"

    def interrupt() -> None:
        wait_for(lambda: any(path.stat().st_size for path in work.glob(".model.safetensors.*.part")))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever pytest was started from
    try:
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
        hub.stop_after, hub.stopped = len(weights) // 2, interrupt
        assert main(GET) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "goes on with what has come" in capsys.readouterr().err and models(tmp_path) == [".tiny.unfinished"]
    assert main(["list"]) == 0 and "in part" in capsys.readouterr().out
    hub.stop_after, hub.commit = None, LATER
    hub.requests.clear()
    assert main(GET) == 0, capsys.readouterr()
    folder = find_model("tiny")
    assert (folder / "model.safetensors").read_bytes() == weights and read_record(folder)["revision"] == COMMIT
    [resumed] = [headers["Range"] for path, headers in hub.requests if path.startswith("/cdn/")]
    assert 0 < int(resumed.removeprefix("bytes=").rstrip("-")) <= len(weights) // 2
    assert hub.asked("/resolve/") == [f"/owner/tiny/resolve/{COMMIT}/model.safetensors"]  # all others were there


@pytest.mark.parametrize("change, expected", [
    (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "the hash of what came is .*, expected "),
    (lambda content: content + b"more", "more came than the [0-9]* bytes that were announced"),
    (lambda content: content[:-4], "Consistency check failed"),
], ids=["wrong", "longer", "shorter"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_not_the_announced_one_is_refused(hub: Hub, tmp_path: Path, name: str, expected: str,
                                                         change: Callable[[bytes], bytes],
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    hub.sent[name] = change(hub.files[name])
    assert main(GET) == 1
    assert_told(capsys, f"owner/tiny, {name}: {expected}")
    assert models(tmp_path) == [".tiny.unfinished"]
    assert not (tmp_path / "data/ros_gpt4roi/models/.tiny.unfinished" / name).exists()
    with pytest.raises(ConfigError, match="'tiny'"):
        find_model("tiny")


def test_what_was_wrong_is_fetched_anew(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.sent["model.safetensors"] = bytes(len(hub.files["model.safetensors"]))
    assert main(GET) == 1
    hub.sent.clear()
    assert main(GET) == 0, capsys.readouterr()
    assert (find_model("tiny") / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json", "a\nb.json"])
def test_a_repository_with_names_outside_of_it_is_refused(hub: Hub, tmp_path: Path, name: str,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    hub.files[name] = b"{}"
    assert main(GET) == 1
    assert_told(capsys, "a file is called .*, expected names within the repository; nothing of it was downloaded")
    assert not hub.asked("resolve") and models(tmp_path) == []


@pytest.mark.parametrize("listing, expected", [
    ({"siblings": []}, "there is no config.json"),
    ({"sha": "main"}, "the commit is 'main', expected 40 hexadecimal digits"),
    ({"cardData": {"license": "cc-by-nc-4.0"}}, "the licence is 'cc-by-nc-4.0', expected Apache-2.0"),
    ({"siblings": [{"rfilename": "config.json", "size": -1, "blobId": "0" * 40}]}, "config.json has size -1"),
    ({"siblings": [{"rfilename": "config.json", "size": 1, "blobId": "../x"}]}, "hash '../x', expected"),
    ({"siblings": [{"size": 1}]}, "the answer is not the Hub's"),
])
def test_a_listing_that_does_not_fit_is_refused(hub: Hub, tmp_path: Path, listing: dict, expected: str,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    hub.listing |= listing
    assert main(GET) == 1
    assert_told(capsys, expected)
    assert not hub.asked("resolve") and models(tmp_path) == []


def test_another_commit_than_the_pinned_one_is_refused(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.listing["sha"] = LATER
    assert main(["get", "pinned", "--accept-licence"]) == 1
    assert_told(capsys, f"the commit is '{LATER}', expected {COMMIT}")
    assert hub.asked(f"/revision/{COMMIT}")


def test_a_template_that_runs_code_is_refused_before_the_weights_come(hub: Hub, tmp_path: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    write_entries(tiny={**ENTRY, "files": [*ENTRY["files"], "chat_template.jinja"]})
    hub.files["chat_template.jinja"] = b"{{ cycler.__init__.__globals__.os.system('true') }}"
    assert main(GET) == 1
    assert_told(capsys, "no model that this package loads, and was deleted: .* chat template reaches for __init__")
    assert not hub.asked(".safetensors") and models(tmp_path) == []


def test_without_a_network_it_says_so(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(GET) == 1
    assert_told(capsys, "http://127.0.0.1:9, owner/tiny: not reached .*expected a network or a mirror")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(GET) == 1
    assert_told(capsys, "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set")
    write_entries(tiny={**ENTRY, "repository": "owner/none"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    assert main(GET) == 1
    assert_told(capsys, "owner/none: the server answers 404 Not Found; expected a public repository")
    assert models(tmp_path) == []


def test_too_little_disk_is_told_before_anything_comes(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(download, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=100_000)))
    assert main(GET) == 1
    assert_told(capsys, "0.1 MB are free on its disk, expected [0-9.]* MB for owner/tiny")
    assert not hub.asked("resolve") and models(tmp_path) == []


def test_a_full_disk_is_told_and_what_came_is_kept(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/full is a disk that is always full."""
    class Full(io.BufferedWriter):
        def __init__(self, *_: object):
            super().__init__(io.FileIO("/dev/full", "w"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "_Bounded", Full)
        assert main(GET) == 1
        assert_told(capsys, "No space left on device; what has come is kept")
    assert main(GET) == 0, capsys.readouterr()


@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_without_consent_to_the_licence_nothing_comes(hub: Hub, tmp_path: Path, typed: str,
                                                      monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert main(["get", "tiny"]) == 1  # no terminal
    assert_told(capsys, "the licence of tiny (.*LICENSE-2.0) was not accepted.*expected --accept-licence")
    assert not hub.requests
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert main(["get", "tiny"]) == 1
    assert_told(capsys, "the licence of tiny was not accepted; nothing was downloaded")
    assert not hub.asked("resolve") and models(tmp_path) == []


def test_with_consent_it_goes_where_it_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    place = tmp_path / "elsewhere" / "model"
    assert main(["get", "tiny", "--to", str(place)]) == 0, capsys.readouterr()
    assert (place / "config.json").is_file() and models(tmp_path) == []
    assert f"`model: {place}`" in capsys.readouterr().out
    hub.requests.clear()
    assert main([*GET, "--to", str(place)]) == 0 and not hub.requests
    shutil.rmtree(place)
    (place / "mine").mkdir(parents=True)
    assert main([*GET, "--to", str(place)]) == 1
    assert_told(capsys, "there is something else, expected a new or empty folder")
    (tmp_path / "file").touch()
    assert main([*GET, "--to", str(tmp_path / "file" / "model")]) == 1
    assert_told(capsys, "file/model: Not a directory, expected a place that can be written")


def test_what_is_of_another_commit_does_not_stay(hub: Hub, tmp_path: Path) -> None:
    work = tmp_path / "data/ros_gpt4roi/models/.pinned.unfinished"
    work.mkdir(parents=True)
    for name in ("model-00002-of-00002.safetensors", ".config.json.0123456789abcdef.part", "config.json"):
        (work / name).write_text("{}")
    (work / "download.json").write_text(json.dumps({"revision": LATER}))
    assert main(["get", "pinned", "--accept-licence"]) == 0
    folder = find_model("pinned")
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
        "download.json"}
    assert (folder / "config.json").read_bytes() == hub.files["config.json"]
    assert read_record(folder)["revision"] == COMMIT


def test_two_downloads_into_one_folder_are_one_too_many(hub: Hub, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data/ros_gpt4roi/models/.tiny.unfinished"
    folder.mkdir(parents=True)
    with download.locked(folder):
        assert main(GET) == 1
    assert_told(capsys, "another download into it is under way")


def test_an_unknown_name_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "Qwen3-VL-2B"]) == 1
    assert_told(capsys, "there is no model 'Qwen3-VL-2B', did you mean Qwen3-VL-2B-Instruct")
    assert main(["card", "nothing"]) == 1
    assert_told(capsys, "there is no model 'nothing'; expected one of a folder with config.json, tabletop, ")
    assert main(["get", "tabletop"]) == 0 and "comes with the package: " in capsys.readouterr().out


def test_a_retrained_models_card_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(find_model("tabletop") / "config.json", tmp_path)
    shares = {"before": 0.125, "after": 0.9}
    (tmp_path / "card.json").write_text(json.dumps({"new": shares, "old": {"before": None, "after": None}}))
    assert main(["card", str(tmp_path)]) == 0
    assert "held out 12.5% right before, 90.0% now; of what was known not measured" in (out := capsys.readouterr().out)
    assert "GPT4RoI: resnet, region extractor roi_align, llama" in out
    (tmp_path / "card.json").write_text("[]")
    (tmp_path / "config.json").write_text('{"model_type": "\\u001b[31m"}')
    assert main(["card", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "retrained:        not known: " in out and "\\x1b[31m of transformers" in out


def test_only_get_can_go_online(root: Path) -> None:
    code = ("import sys; from ros_gpt4roi.models.__main__ import main; "
            "main(['list']); main(['card', 'tabletop']); main(['card', 'Qwen3-VL-8B-Instruct']); "
            "assert not {'huggingface_hub', 'httpx2', 'requests', 'transformers'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


def wait_for(condition: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def assert_told(capsys: pytest.CaptureFixture[str], expected: str) -> None:
    """That the error of a command, one line, holds a pattern, whose brackets are just that."""
    told = capsys.readouterr().err
    assert re.search(expected.replace("(", r"\(").replace(")", r"\)"), told), told
    assert told.count("\n") == 1, told
