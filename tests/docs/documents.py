"""README.md and docs/ as data: their shell blocks, names, links and quoted messages.

A line before each shell block says what becomes of it here:

    <!-- run -->                      it is run, from a copy of the checkout, after the page's blocks before it
    <!-- run: slow -->                so, in a test marked slow
    <!-- tested in: tests/x.py -->    that test runs what it shows
    <!-- not run: why -->             needs something that is not here
"""
from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
SHELLS = {"bash", "sh", "shell", "console"}
ROOMS = ("benchmarks", "config", "docs", "engines", "interfaces", "launch", "models", "requirements", "ros_gpt4roi",
         "scripts", "tests", "training")
INNER_ROOMS = ("engine", "model", "nodes", "runtime", "sim", "speech")  # of ros_gpt4roi; pages may leave that out
_MARK = re.compile(r"<!-- (run|run: slow|(?:tested in|not run): .+?) -->\s*$")
_PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(ROOMS + INNER_ROOMS)})/[\w./*-]*[\w/*]")


@dataclass(frozen=True)
class Block:
    """A shell block of a page. mark: what is written before it, without the brackets; empty where nothing is."""

    page: Path
    line: int
    mark: str
    text: str

    @property
    def runs(self) -> bool:
        return self.mark.startswith("run")

    def commands(self) -> Iterator[list[str]]:
        """The words of each command, without comments, redirections' texts and what a here-document holds."""
        text = re.sub(r"<<'(\w+)'\n.*?\n\1\n", "\n", self.text.replace("\\\n", " "), flags=re.DOTALL)
        for line in text.splitlines():
            for part in re.split(r"\s(?:&&|\|)\s", line):
                if words := shlex.split(part, comments=True):
                    yield words


def pages(root: Path = ROOT) -> list[Path]:
    """README.md, what stands beside it, and the pages of docs/."""
    beside = [root / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*beside, *sorted((root / "docs").glob("*.md"))]


@lru_cache
def tokens(page: Path) -> list[Token]:
    """The page's Markdown tokens, those within paragraphs too."""
    flat = []
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        flat += [token, *(token.children or [])]
    return flat


def shell_blocks(page: Path) -> list[Block]:
    """The fenced shell blocks of a page."""
    found, before = [], ""
    for token in tokens(page):
        if token.type == "html_block":
            before = token.content
        elif token.type in ("fence", "code_block"):
            words = token.info.split()
            if token.type == "code_block" or words and words[0] in SHELLS:
                mark = _MARK.search(before)
                found.append(Block(page, (token.map or [0])[0] + 1, mark[1] if mark else "", token.content))
            before = ""
        elif token.content.strip() and token.type not in ("text", "softbreak"):
            before = ""
    return found


def codes(page: Path) -> Iterator[str]:
    """What stands in code on a page: inline and in blocks."""
    return (token.content for token in tokens(page) if token.type in ("code_inline", "fence", "code_block"))


def named_paths(page: Path) -> set[str]:
    """Paths of the repository that a page names in code, or before a shell block."""
    marks = (block.mark for block in shell_blocks(page))
    return {path for text in (*codes(page), *marks) for path in _PATH.findall(text)}


def is_there(path: str) -> bool:
    """Whether a named path, which may hold a star, exists."""
    return any(ROOT.glob(path)) or path.startswith(INNER_ROOMS) and any((ROOT / "ros_gpt4roi").glob(path))


def links(page: Path) -> Iterator[str]:
    """Targets of a page's links and pictures."""
    for token in tokens(page):
        target = token.attrGet("href") or token.attrGet("src")
        if target:
            yield str(target)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    listed = tokens(page)
    titles = [listed[place + 1].content for place, token in enumerate(listed) if token.type == "heading_open"]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower()) for title in titles}


@lru_cache
def message_templates(root: Path = ROOT) -> list[list[str]]:
    """The fixed pieces of every text in the code, in order; shell scripts line by line."""
    found = []
    for room in ("ros_gpt4roi", "training", "scripts"):
        for path in (root / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append([str(part.value) for part in node.values if isinstance(part, ast.Constant)])
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append([node.value])
        for path in (root / room).glob("*.sh"):
            found += [[line] for line in path.read_text(encoding="utf-8").splitlines()]
    return found


def is_said(message: str, templates: list[list[str]]) -> bool:
    """Whether the code says a message; "…" in it stands for any text.

    Its fixed pieces have to be found in one text of the code, in their order.
    """
    wanted = [piece.strip() for piece in message.split("…") if piece.strip(" ;:,.()")]
    for pieces in templates:
        text, place = "\0".join(pieces), 0
        for piece in wanted:
            place = text.find(piece, place)
            if place < 0:
                break
            place += len(piece)
        else:
            return True
    return False
