"""What README.md and docs/ say exists, and what they show to run runs."""
from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import documents
import pytest
from documents import ROOT, Block, is_said, is_there, message_templates, named_paths, pages, shell_blocks
from isolation import for_children

PAGES = pages()
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
BLOCKS = [block for page in PAGES for block in shell_blocks(page)]
# What a run of a page's blocks finds in its folder; all else that it makes there is its own.
_LINKED = (*documents.ROOMS, ".venv", "install", "setup.py", "package.xml")
_OPTION = re.compile(r"^--[\w-]+")
_COMMANDS = {"build_engine": "ros_gpt4roi.engine.build_engine", "describe": "ros_gpt4roi.describe",
             "ask": "ros_gpt4roi.console.ask", "console": "ros_gpt4roi.console.terminal"}  # of `ros2 run`


def write(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


# --- shell blocks ---


def test_every_shell_block_says_whether_it_runs() -> None:
    assert len(BLOCKS) > 30
    unmarked = [f"{block.page.relative_to(ROOT)}:{block.line}" for block in BLOCKS if not block.mark]
    assert not unmarked, f"no <!-- run -->, <!-- tested in: … --> or <!-- not run: … --> before {unmarked}"


def test_a_block_without_a_mark_is_found(tmp_path: Path) -> None:
    page = write(tmp_path, "<!-- run -->\n```bash\ntrue\n```\n\n```bash\nfalse\n```\n\n<!-- not run: a GPU -->\nxx\n\n"
                           "```sh\nx\n```\n\n    indented\n\n<!-- run: slow -->\n```bash\ny\n```\n```python\nz\n```\n")
    assert [(block.line, block.mark) for block in shell_blocks(page)] == [
        (2, "run"), (6, ""), (13, ""), (17, ""), (20, "run: slow")]


def executed(page: Path) -> list[Block]:
    return [block for block in shell_blocks(page) if block.runs]


def is_slow(page: Path) -> bool:
    return any(block.mark == "run: slow" for block in executed(page))


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * is_slow(page))
                                  for page in PAGES if executed(page)])
@pytest.mark.timeout(1000)  # a first `describe` exports the model: seconds, on a busy machine minutes
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    for name in _LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    script = "set -euo pipefail\n" + "\n".join(block.text for block in executed(page))
    # The Python of this process, whichever shell the tests were started from.
    environment = for_children({"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])})
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True,
                          timeout=900)
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


# --- names ---


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_named_files_exist(page: Path) -> None:
    missing = [path for path in named_paths(page) if not is_there(path)]
    assert not missing


def test_a_file_that_does_not_exist_is_found(tmp_path: Path) -> None:
    page = write(tmp_path, "`training/none.py`, `scripts/*.sh`, /opt/scripts/x.sh\n\n<!-- tested in: tests/no.py -->\n"
                           "```bash\nscripts/demo.sh --x\n```\n")
    assert named_paths(page) == {"training/none.py", "scripts/*.sh", "tests/no.py", "scripts/demo.sh"}
    assert is_there("scripts/*.sh") and is_there("model/vision.py") and not is_there("training/none.py")


def programs(block: Block) -> list[tuple[tuple[str, ...], list[str]]]:
    """The repository's own programs that a block calls, as what starts them, and the words that follow."""
    found: list[tuple[tuple[str, ...], list[str]]] = []
    for words in block.commands():
        if "-m" in words:
            place = words.index("-m") + 1
            if words[place].split(".")[0] in documents.ROOMS:
                found.append(((sys.executable, "-m", words[place]), words[place + 1:]))
        elif words[:3] == ["ros2", "run", "ros_gpt4roi"]:
            module = _COMMANDS.get(words[3])
            found.append(((sys.executable, "-m", module) if module else ("ros2", words[3]), words[4:]))
        else:
            for place, word in enumerate(words[:2]):
                if word.startswith("scripts/"):
                    word = word.replace("demo.sh", "demo.py")  # sets up, and hands all its arguments on
                    starter = (sys.executable, str(ROOT / word)) if word.endswith(".py") else (str(ROOT / word),)
                    found.append((starter, words[place + 1:]))
    return found


INLINE = [Block(page, 0, "", token.content) for page in PAGES for token in documents.tokens(page)
          if token.type == "code_inline" and token.content.startswith(("python -m ", "ros2 run ros_gpt4roi "))]
PROGRAMS = [(block, starter, words) for block in (*BLOCKS, *INLINE) for starter, words in programs(block)]


def test_named_modules_and_executables_exist() -> None:
    console_scripts = re.findall(r"(\w+) = \{NAME\}\.", (ROOT / "setup.py").read_text())
    assert len(PROGRAMS) > 20
    for _, starter, _ in PROGRAMS:
        if starter[0] == "ros2":
            assert starter[1] in console_scripts, starter
        elif "-m" in starter:
            assert importlib.util.find_spec(starter[2]) is not None, starter
        else:
            assert Path(starter[-1]).is_file(), starter
    inline = {module for page in PAGES for code in documents.codes(page)
              for module in re.findall(r"-m ((?:ros_gpt4roi|training|benchmarks)[\w.]*)", code)}
    assert all(importlib.util.find_spec(module) for module in inline)


def option_cases() -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every program with the options that the documents give it, each program (and subcommand) once."""
    cases: dict[tuple[str, ...], set[str]] = {}
    for _, starter, words in PROGRAMS:
        options = {match[0] for word in words if (match := _OPTION.match(word))} - {"--help", "--ros-args"}
        if not options or starter[0] == "ros2" or starter[0].endswith("test.sh"):  # test.sh hands all to pytest
            continue
        command = starter + tuple(words[:1] if words[0].isidentifier() else ())
        cases.setdefault(command, set()).update(options)
    return [(command, tuple(sorted(options))) for command, options in cases.items()]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "options"), option_cases(), ids=lambda value: " ".join(value[-2:]))
def test_options_are_known_to_their_program(command: tuple[str, ...], options: tuple[str, ...]) -> None:
    shown = subprocess.run([*command, "--help"], cwd=ROOT, env=for_children(), capture_output=True, text=True,
                           timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert not [option for option in options if not re.search(rf"{option}\b", shown.stdout)], shown.stdout


def test_named_interfaces_exist() -> None:
    named = {name for page in PAGES for code in documents.codes(page)
             for name in re.findall(r"ros_gpt4roi_interfaces/(?:msg/|srv/|action/)?([A-Z]\w+)", code)}
    there = {path.stem for path in (ROOT / "interfaces" / "ros_gpt4roi_interfaces").glob("*/*.*")}
    assert named and named <= there


def test_the_statuses_are_those_of_the_message() -> None:
    message = (ROOT / "interfaces/ros_gpt4roi_interfaces/msg/Answer.msg").read_text()
    page = (ROOT / "docs/ros_interface.md").read_text().partition("<!-- checked against Answer.msg -->")[2]
    documented = re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)
    assert documented == re.findall(r"^uint8 ([A-Z_]+)=", message, re.MULTILINE)


def test_named_parameters_are_declared() -> None:
    pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
    from ros_gpt4roi.configuration import leaves
    from ros_gpt4roi.nodes.perception import PerceptionParameters
    from ros_gpt4roi.nodes.recorder import RecorderParameters
    from ros_gpt4roi.nodes.sim_camera import CameraParameters
    from ros_gpt4roi.nodes.speech import SpeechParameters

    kinds = (PerceptionParameters, CameraParameters, SpeechParameters, RecorderParameters)
    declared = {leaf.name for kind in kinds for leaf in leaves(kind)}
    groups = {name.partition(".")[0] for name in declared if "." in name}
    named = {name for page in PAGES for code in documents.codes(page)
             for name in re.findall(rf"(?<![\w./])(?:{'|'.join(groups)})\.(?!yaml|json)[\w.]*\w", code)}
    assert named and named <= declared
    set_by_name = {name for block in BLOCKS for words in block.commands() for name in set_parameters(words)}
    assert set_by_name and set_by_name <= declared


def set_parameters(words: list[str]) -> list[str]:
    """Parameters of ours that a command sets: `-p name:=value`, `ros2 param set NODE name value`."""
    if words[:2] == ["ros2", "run"] and words[2] != "ros_gpt4roi":
        return []
    given = [word.partition(":=")[0] for before, word in zip(words, words[1:], strict=False)
             if before == "-p" and "--ros-args" in words]
    return given + (words[4:5] if words[:3] == ["ros2", "param", "set"] else [])


# --- links and messages ---


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in documents.links(page):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in documents.anchors(file), target


def quoted_messages(page: Path) -> list[str]:
    """The code that begins a row of a table in which messages are explained."""
    rows = re.findall(r"^\| `([^`]+)`[^|]*\|[^|\n]*\|[^|\n]*\|$", page.read_text(), re.MULTILINE)
    return [row for row in rows if row != "/diagnostics"]


def test_quoted_messages_are_said_by_the_code() -> None:
    messages = quoted_messages(ROOT / "docs" / "troubleshooting.md")
    assert len(messages) > 30
    unknown = [message for message in messages if not is_said(message, message_templates())]
    assert not unknown


def test_a_message_that_nobody_says_is_found() -> None:
    said = [["box ", " is outside the image of ", "x", ""], ["no image"]]
    assert is_said("box (…) is outside the image of …x…", [["box (", ") is outside the image of ", "x"]])
    assert not is_said("image of … is outside the box", said)
    assert not is_said("an image", said)


def test_the_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
                           cwd=ROOT, env=for_children({"NO_MKDOCS_2_WARNING": "1"}), capture_output=True, text=True,
                           timeout=120)
    assert built.returncode == 0, built.stderr
    html = {page: page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")}
    loaded = re.compile(r'<(?:script|img|iframe|source|video)\b[^>]*\bsrc="https?:[^"]*"'
                        r'|<link\b[^>]*\brel="(?:stylesheet|preconnect|icon|preload)"[^>]*>')
    outside = [match for text in html.values() for match in loaded.findall(text) if "http" in match]
    assert len(html) > 10 and not outside
    # Material fetches Mermaid itself where a page has none.
    diagrams = [text for text in html.values() if 'class="mermaid"' in text]
    assert diagrams and all("assets/mermaid.tiny.js" in text for text in diagrams)
