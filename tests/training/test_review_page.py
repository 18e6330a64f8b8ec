"""The review page in real Chromium, with the real server and records on a disk behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import training_fixtures as fixtures

pytest.importorskip("playwright", reason="playwright is not installed")

from browsing import WAIT_MS, Child, chromium, served, watch  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Page, expect  # noqa: E402

from ros_gpt4roi.runtime.evidence import TrainingRegion, write_index  # noqa: E402
from training.data.record_file import FILE, PictureRecord, read_records  # noqa: E402
from training.data.report import Report  # noqa: E402

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures: one that `select` chose, one with a conversation, one without its file, one with hostile texts."""
    fixtures.records(tmp_path)  # images/a.png with a valve, a mug and a conversation, images/b.png
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    lines[1]["review"] = ["low confidence"]
    lines += [{"file": "images/missing.png", "width": 9, "height": 9, "regions": [{"box": [0, 0, 5, 5], "name": "a"}]},
              {"file": "images/c.png", "width": 100, "height": 80, "origin": {"bag": HOSTILE}, "review": [],
               "regions": [{"id": "1", "box": [1, 1, 50, 50], "name": "x", "description": f"{HOSTILE} valve"}]}]
    fixtures.image(tmp_path / "images" / "c.png")
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    child = Child(tmp_path_factory.mktemp("log") / "review.log", "review", str(folder), "--port", "0",
                  package="training")
    with served(child, "Review page") as address:
        yield address


def reviewer(browser: Browser, address: str, name: str) -> tuple[BrowserContext, Page, list[str]]:
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.add_init_script(f"localStorage.setItem('who', {name!r})")
    page = context.new_page()
    faults = watch(page)
    page.goto(address)
    expect(page.locator("#title")).not_to_be_empty()
    return context, page, faults


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def saved(page: Page) -> None:
    expect(page.locator("#saved")).to_have_text("saved")


def records(folder: Path) -> dict[str, PictureRecord]:
    return {record.file: record for record in read_records(folder / FILE, Report(0))}


def test_records_are_reviewed_by_keyboard_alone_and_written(browser: Browser, address: str, folder: Path) -> None:
    before = (folder / FILE).read_text()
    context, page, faults = reviewer(browser, address, "Ada")
    title = page.locator("#title")
    expect(title).to_have_text("images/b.png")  # what select has chosen comes first
    press(page, "Enter")
    expect(title).to_have_text("images/a.png")
    # A name is completed from those of the data set, and an edit is undone and done again.
    press(page, "j", "e")
    page.keyboard.type("va")
    expect(page.locator("[data-region=mug_3] .name")).to_have_value("valve")
    press(page, "Enter", "z")
    expect(page.locator("[data-region=mug_3] .name")).to_have_value("mug")
    press(page, "y")
    expect(page.locator("[data-region=mug_3] .name")).to_have_value("valve")
    # A region is drawn, named and taken for one; another is wrong.
    press(page, "b", "Space", *["ArrowRight"] * 2, *["ArrowDown"] * 3, "Enter")
    expect(page.locator(".item [class=name]:focus")).to_be_visible()
    page.keyboard.type("handle")
    press(page, "Enter", "k", "k", "x")
    expect(page.locator("[data-region='1'].wrong")).to_be_visible()
    saved(page)
    page.reload()  # all is kept at every key
    expect(title).to_have_text("images/a.png")
    expect(page.locator("[data-region='2'] .name")).to_have_value("handle")
    press(page, "Enter")
    expect(title).to_have_text("images/missing.png")
    expect(page.locator("#picture .notice")).to_contain_text("'images/missing.png' is not in the folder")
    press(page, "r")
    expect(title).to_have_text("images/c.png")
    expect(page.locator(".description").first).to_have_value(f"{HOSTILE} valve")
    press(page, "?")
    expect(page.locator("#help")).to_contain_text("accept the picture")
    press(page, "Escape", "n")
    expect(page.locator("#end")).to_contain_text("2 accepted, 1 rejected; 1 were skipped")
    press(page, "w")
    expect(page.locator("#connection")).to_contain_text("2 accepted")
    context.close()
    assert (folder / "records.1.jsonl").read_text() == before
    found = records(folder)
    assert list(found) == ["images/a.png", "images/b.png", "images/c.png"]
    valve, mug, handle = found["images/a.png"].regions
    assert (valve.name, valve.description) == ("", "a red valve on the wall") and valve.mask is not None
    assert valve.judgements[-1].wrong and not valve.judgements[-1].right
    assert (mug.name, mug.source, mug.confidence) == ("valve", "person", 1.0)
    judged = mug.judgements[-1]
    assert (judged.said, judged.right, judged.wrong, judged.who) == ("mug", "valve", True, "Ada") and judged.time > 0
    assert handle.name == "handle" and handle.box == (50.0, 40.0, 70.0, 70.0)
    assert not found["images/b.png"].review
    assert json.loads(before.splitlines()[3]) == json.loads((folder / FILE).read_text().splitlines()[-1])
    assert all("status of 422" in fault for fault in faults), "only the missing picture is refused"


def test_records_that_a_region_resembles_are_shown(browser: Browser, address: str, folder: Path) -> None:
    context, page, faults = reviewer(browser, address, "Ada")
    first = page.locator("#title").inner_text()
    press(page, "n")
    expect(page.locator("#title")).not_to_have_text(first)
    press(page, "v")
    expect(page.locator("#message")).to_contain_text("make it by: python -m training.data index")
    regions = [TrainingRegion(f"images/{name}.png", region, (10, 10, 40, 50), HOSTILE)
               for name, region in (("a", "1"), ("b", "1"), ("c", "1"), ("missing", "1"))]
    write_index(folder, "m@1", np.array([[1, 0, 0], [.9, .4, 0], [0, 1, 0], [0, 0, 1]]), regions)
    press(page, "v")
    found = page.locator("#evidence-records li")
    expect(found).to_have_count(3)
    expect(found.first).to_contain_text("images/b.png")
    expect(found.first).to_contain_text(HOSTILE)
    expect(page.locator("#evidence img")).to_have_count(2)  # one picture is missing
    assert page.locator("#evidence img").evaluate_all("images => images.every(image => image.naturalWidth > 20)")
    press(page, "Escape", "j", "v")
    expect(page.locator("#message")).to_contain_text("region mug_3 of this picture is not in the index")
    context.close()
    assert all("status of 422" in fault for fault in faults)


def test_two_reviewers_get_different_records_and_neither_overwrites_the_other(
        browser: Browser, address: str, folder: Path) -> None:
    one, ada, _ = reviewer(browser, address, "Ada")
    expect(ada.locator("#title")).to_have_text("images/b.png")
    two, bob, _ = reviewer(browser, address, "Bob")
    shown = bob.locator("#title").inner_text()
    assert shown not in ("images/a.png", "images/b.png"), "Ada looks at one and has the next one loaded"
    # Both have a record open: the one whose lease is over finds the other's change.
    press(ada, "Enter", "j", "e")
    ada.keyboard.type("jug")
    saved(ada)
    record = ada.evaluate("""async () => {
        const { post } = await import("/static/api.js");
        const { record } = await post("api/open", {id: 1});
        record.edits.regions[0].name = "tap";
        await post("api/save", {id: 1, version: record.version, edits: record.edits, verdict: "", who: "Eve"});
        return record.id;
    }""")
    assert record == 1
    ada.keyboard.type("s")
    expect(ada.locator("#message")).to_contain_text("changed by Eve meanwhile")
    expect(ada.locator("[data-region='1'] .name")).to_have_value("tap")
    press(ada, "z")
    expect(ada.locator("[data-region=mug_3] .name")).to_have_value("jugs")
    saved(ada)
    # What is held by one is shown to the other, and can't be changed there.
    held = bob.evaluate("""async () => {
        const { post } = await import("/static/api.js");
        const { record } = await post("api/open", {id: 1});
        const { id, version, edits } = record;
        const saved = post("api/save", {id, version, edits, verdict: ""});
        return [record.holder, await saved.catch((error) => error.message)];
    }""")
    assert held == ["Ada", "Ada has this record at the moment"]
    one.close()
    two.close()


def test_other_machines_need_the_token_and_other_pages_are_refused(
        browser: Browser, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    child = Child(tmp_path_factory.mktemp("log") / "review.log", "review", str(folder), "--port", "0", "--token",
                  "secret", package="training")
    with served(child, "Review page") as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address.split("#")[0])
        expect(page.locator("#token-form")).to_be_visible()
        assert page.locator("#title").inner_text() == ""
        assert page.request.get(f"{address.split('#')[0]}api/picture/1").status == 401
        assert page.request.post(f"{address.split('#')[0]}api/export", data="{}").status == 421, "without an origin"
        page.locator("#token").fill("secret")
        page.locator("#token").press("Enter")
        expect(page.locator("#title")).to_have_text("images/b.png")
        context.close()
