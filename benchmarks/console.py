"""What the web console adds: from a click or a question to the first word in the page, and what browsers cost the node.

    python -m benchmarks.console --json benchmarks/results/console.json

The simulated camera, the perception node and the web console run in processes of their own, Chromium opens the page.
Questions take turns: through the page, and straight through the action with the same words. Times of the page are taken
in the page itself, from the event to the text that it shows.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.common import machine_facts, use_own_ros_domain, write_results
from ros_gpt4roi.client import Client

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = (0, 1, 4)
START_S, STOP_S, PAGE_MS = 300.0, 30.0, 120_000
# Resolves with the milliseconds from an event to the first word of the newest conversation.
_FIRST_WORD = """(event) => new Promise((resolve) => {
    let began = null;
    addEventListener(event, () => { began ??= performance.now(); }, {capture: true, once: true});
    const cards = document.getElementById("cards");
    const before = cards.firstElementChild;
    const observer = new MutationObserver(() => {
        const turn = cards.firstElementChild === before ? null : cards.firstElementChild?.querySelector(".turn");
        const error = turn?.querySelector(".error:not([hidden])")?.textContent;
        if (!error && !turn?.querySelector(".answer").textContent) return;
        observer.disconnect();
        resolve(error ?? performance.now() - began);
    });
    observer.observe(cards, {subtree: true, childList: true, characterData: true, attributes: true});
})"""


def main() -> None:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--rounds", type=int, default=30, help="questions each way, and clicks")
    parser.add_argument("--seconds", type=float, default=15.0, help="for which the node's CPU is measured each time")
    parser.add_argument("--rate", type=float, default=5.0, help="frames a second")
    options = parser.parse_args()
    use_own_ros_domain()
    machine = machine_facts()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="console_")))
        stack.enter_context(_process(folder, "nodes.sim_camera", "--ros-args", "-p", f"rate_hz:={options.rate}",
                                     "-p", "views:=1"))
        node = stack.enter_context(_process(folder, "nodes.perception"))
        console = stack.enter_context(_process(folder, "console.web", "--port", "0"))
        client = stack.enter_context(Client(name="benchmark"))
        client.wait_for_node(START_S)
        next(iter(client.descriptions(START_S)))
        address = _address(folder / "console.web.log")
        playwright = stack.enter_context(sync_playwright())
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        stack.callback(browser.close)
        results = {"machine": machine, "frames_per_second": options.rate, "rounds": options.rounds,
                   **latencies(browser, address, client, options.rounds),
                   **cpu(browser, address, node, console, options.seconds)}
    write_results(options.json, results)


def latencies(browser: Browser, address: str, client: Client, rounds: int) -> dict[str, Any]:
    """Milliseconds to the first word: clicked, asked in the page, and asked through the action, in turns."""
    page = _open(browser, address)
    taken: dict[str, list[float]] = {"click": [], "question": [], "action": []}
    region = page.locator("#regions li").first.get_attribute("data-region")
    question = f"What is region {region}?"
    for number in range(2 + rounds):  # the first ones warm up
        measured = {"click": _clicked(page), "question": _asked(page, question), "action": _direct(client, question)}
        for name, milliseconds in measured.items():
            if number >= 2:
                taken[name].append(milliseconds)
    page.close()
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {"click_to_first_word_ms": medians["click"], "question_to_first_word_ms": medians["question"],
            "action_to_first_word_ms": medians["action"], "web_added_ms": medians["question"] - medians["action"],
            "p95_ms": {name: statistics.quantiles(values, n=20)[-1] for name, values in taken.items()}}


def cpu(browser: Browser, address: str, node: psutil.Popen, console: psutil.Popen, seconds: float) -> dict[str, Any]:
    """CPU of the node and of the console, in per cent of one core, with some browsers that watch."""
    results = {}
    for count in BROWSERS:
        pages = [_open(browser, address) for _ in range(count)]
        busy = [(process, sum(process.cpu_times()[:2])) for process in (node, console)]
        begin = time.monotonic()
        if pages:
            pages[0].wait_for_timeout(1000 * seconds)
        else:
            time.sleep(seconds)
        passed = time.monotonic() - begin
        used = [100 * (sum(process.cpu_times()[:2]) - before) / passed for process, before in busy]
        results[str(count)] = {"node_percent": used[0], "console_percent": used[1]}
        for page in pages:
            page.close()
    return {"cpu_by_browsers": results}


def _open(browser: Browser, address: str) -> Page:
    page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
    page.set_default_timeout(PAGE_MS)
    page.goto(address)
    page.locator("#regions li").first.wait_for()
    return page


def _clicked(page: Page) -> float:
    canvas = page.locator("#live canvas")
    place = canvas.bounding_box()
    assert place is not None
    page.evaluate(f"void (window.taken = ({_FIRST_WORD})('pointerdown'))")  # a promise would be waited for
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    return _first_word(page)


def _asked(page: Page, question: str) -> float:
    page.locator("#live-question").fill(question)
    page.evaluate(f"void (window.taken = ({_FIRST_WORD})('submit'))")
    page.locator("#live-question").press("Enter")
    return _first_word(page)


def _first_word(page: Page) -> float:
    taken = page.evaluate("window.taken")
    if not isinstance(taken, (int, float)):
        raise RuntimeError(f"the console answered: {taken}")
    page.wait_for_selector(".card:first-child .turn:not(.open)")  # questions do not wait for one another
    return float(taken)


def _direct(client: Client, question: str) -> float:
    first: list[float] = []
    begin = time.perf_counter()
    client.ask(question, on_text=lambda piece: first.append(time.perf_counter()) if not first else None)
    return 1000 * (first[0] - begin)


@contextmanager
def _process(folder: Path, module: str, *arguments: str) -> Iterator[psutil.Popen]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)  # the ROS wheels' own: with it, they find no libraries
    with (folder / f"{module}.log").open("wb") as log:
        process = psutil.Popen([sys.executable, "-m", f"ros_gpt4roi.{module}", *arguments], env=environment, stdout=log,
                               stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
            process.kill()


def _address(log: Path) -> str:
    end = time.monotonic() + START_S
    while not (found := re.search(r"Web console: (\S+)", log.read_text(encoding="utf-8"))):
        if time.monotonic() > end:
            raise RuntimeError(f"the console has no address after {START_S:.0f} s: {log.read_text(encoding='utf-8')}")
        time.sleep(0.1)
    return found[1]


if __name__ == "__main__":
    main()
