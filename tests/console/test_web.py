"""The web console in real Chromium, with the real node and the simulated camera behind it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
pytest.importorskip("playwright", reason="playwright is not installed")

from browsing import WAIT_MS, Child, drag, finished, watch, web_console  # noqa: E402
from playwright.sync_api import Browser, Page, expect  # noqa: E402
from ros_gpt4roi_interfaces.msg import Correction  # noqa: E402
from ros_peer import Peer  # noqa: E402

from ros_gpt4roi.paths import find_model  # noqa: E402
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer  # noqa: E402
from training.data.__main__ import main as training_data  # noqa: E402

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.slow
SLOW_BITS = 100_000 / 8  # bytes a second


def start_node(folder: Path, name: str = "perception") -> Child:
    # PyTorch: an engine would have to be built first.
    return Child(folder / f"{name}.log", "nodes.perception", "--ros-args", "-p", "pipeline.vision.backend:=torch",
                 "-p", f"evidence.records:={folder / 'records'}")


def make_records(folder: Path) -> None:
    """Three pictures of regions that a person has named, and their index."""
    folder.mkdir()
    with TabletopRenderer(320, 240) as renderer, (folder / "records.jsonl").open("w") as file:
        for index in range(3):
            scene = renderer.render("train", 0, index)
            cv2.imwrite(str(folder / f"{index}.png"), scene.image[:, :, ::-1])
            file.write(json.dumps({"file": f"{index}.png", "width": 320, "height": 240, "regions": [
                {"id": str(item.object_index), "box": item.box, "name": f"<b>{item.kind}</b>", "source": "person"}
                for item in scene.objects]}) + "\n")
    assert training_data(["index", str(folder), "--model", str(find_model("tabletop"))]) == 0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Child]]:
    """The running node as the one element of a list: a test may put another in its place."""
    folder = tmp_path_factory.mktemp("node")
    make_records(folder / "records")
    camera = Child(folder / "camera.log", "nodes.sim_camera", "--ros-args", "-p", "rate_hz:=4.0", "-p", "views:=1")
    running = [start_node(folder)]
    yield running
    statuses = [child.stop() for child in (*running, camera)]
    assert statuses == [0, 0], running[0].output() + camera.output()


@pytest.fixture(scope="module")
def address(node: list[Child], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with web_console(tmp_path_factory.mktemp("console") / "web.log") as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page on which regions are described; nothing that a page must not do may have happened in the end."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    faults = watch(page)
    page.goto(address)
    expect(page.locator("#regions li").first).to_be_visible(timeout=4 * WAIT_MS)
    expect(page.locator("#live figcaption")).to_have_text(re.compile(r"s ago$"))  # descriptions come before pictures
    yield page
    context.close()
    assert faults == []


def test_why_shows_what_a_region_resembles_in_training(page: Page) -> None:
    item = page.locator("#regions li").first
    button = item.locator(".why")
    button.click()
    expect(item.locator(".why-status")).to_have_text("In training, this resembles most:")
    expect(button).to_have_attribute("aria-expanded", "true")
    records = item.locator(".evidence li")
    expect(records).to_have_count(5)
    expect(records.first.locator(".text")).to_have_text(re.compile(r"<b>\w+</b>"))  # shown as text
    expect(records.first.locator(".about")).to_have_text(re.compile(r"\d\.png, region \d+, person, distance 0\.\d+"))
    page.wait_for_function("[...document.querySelectorAll('.evidence img')].every(image => image.naturalWidth > 0)")
    button.click()
    expect(records).to_have_count(0)


def test_a_drawn_box_is_asked_about_and_the_answer_streams(page: Page) -> None:
    page.evaluate("""() => {
        window.lengths = new Set();
        new MutationObserver(() => {
            const answer = document.querySelector(".turn.open .answer");
            if (answer?.textContent) window.lengths.add(answer.textContent.length);
        }).observe(document.getElementById("cards"), {subtree: true, childList: true, characterData: true});
    }""")
    live = page.locator("#live canvas")
    drag(page, live, (0.35, 0.35, 0.65, 0.65))
    card = page.locator(".card").first
    turn = finished(card)
    expect(turn.locator(".error")).to_be_hidden()
    assert turn.locator(".answer").inner_text().strip()
    assert page.evaluate("window.lengths.size") > 1  # it came in pieces
    asked = re.fullmatch(r"Describe region (\d+)\.", turn.locator(".question").inner_text())[1]
    assert asked not in page.locator("#regions li").evaluate_all("items => items.map(item => item.dataset.region)")
    expect(card.locator("figcaption")).to_contain_text("s ago")


def test_nothing_is_drawn_on_a_picture_whose_size_is_not_known_yet(page: Page) -> None:
    drawn, notice = page.evaluate("""async () => {
        const { View } = await import("/static/view.js");
        const place = document.createElement("div");
        document.body.append(place);
        const drawn = [];
        const view = new View(place, "a view", () => drawn.push("region"), (frame, box) => drawn.push(box));
        const frame = { width: 0, height: 0, age_s: 0, shown: performance.now(),
                        regions: [{ id: "1", text: "", box: [10, 10, 20, 20] }] };
        view.show(frame);
        view.point({ x: 30, y: 30 });
        view.point({ x: 15, y: 15 });
        const notice = view.notice.textContent;
        view.show({ ...frame, width: 64, height: 48 });
        view.point({ x: 30, y: 30 });
        place.remove();
        return [drawn, notice];
    }""")
    assert drawn == ["region", [30, 30, 30, 30]] and "has not come" in notice


def test_a_question_is_told_the_region_that_was_pointed_at(page: Page) -> None:
    told = {"": "Describe region 1.", "Is this left of region 2?": "Is region 1 left of region 2?",
            "What is it?": "What is region 1?", "Is this one red?": "Is region 1 red?",
            "What is region 2?": "What is region 2?",
            "Name the thing that holds the pen.": "Region 1: Name the thing that holds the pen."}
    for question, expected in told.items():
        for name in ("1", "$&"):
            asked = page.evaluate("""async (given) =>
                (await import("/static/conversations.js")).aboutRegion(...given)""", [question, name])
            assert asked == expected.replace("egion 1", f"egion {name}")


def test_labels_of_crowded_regions_do_not_cover_one_another(page: Page) -> None:
    places = page.evaluate("""async () => {
        const { arrange } = await import("/static/labels.js");
        const crowd = [...Array(12)].map((_, i) => ({id: `${i + 1}`, text: "a small shiny red metal cube", box:
            [100 + 3 * i, 100 + 2 * i, 160 + 3 * i, 150 + 2 * i]}));
        const alone = {id: "far", text: "a mug. It is blue", box: [400, 300, 500, 400]};
        const labels = arrange([...crowd, alone, {id: "out", text: "", box: [-50, -50, 0, 0]}],
            (text) => 7 * text.length + 6, 17, [640, 480]);
        return labels.map(({ region, text, place }) => [region.id, text, place]);
    }""")
    assert {name for name, _, _ in places} >= {"far", "1", "2", "3", "4", "5", "6"}
    assert [text for name, text, _ in places if name == "far"] == ["far: a mug"]
    assert any(text == name for name, text, _ in places), "where a text has no room, the id stands alone"
    for count, (_, _, (x1, y1, x2, y2)) in enumerate(places):
        assert 0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 480
        for _, _, other in places[:count]:
            assert x1 >= other[2] or x2 <= other[0] or y1 >= other[3] or y2 <= other[1], (places[count], other)


def test_the_regions_that_an_answer_asserts_light_up_on_its_frame(page: Page) -> None:
    regions = page.locator("#regions li").evaluate_all(
        "items => items.map(item => [item.dataset.region, item.querySelector('.region-text').textContent])")
    identifier, text = regions[0]
    looks = re.split("[.,;]", text.lower())[0].strip()
    page.get_by_label("Question about the live picture").fill(f"Which region is {looks}?")
    page.get_by_label("Question about the live picture").press("Enter")
    card = page.locator(".card").first
    turn = finished(card)
    expect(turn.locator(".error")).to_be_hidden()
    lit = card.locator("canvas").get_attribute("data-lit")
    named = re.findall(r"region (\w+)", turn.locator(".answer").inner_text())
    assert lit and set(lit.split()) <= set(named)
    assert f"lit: region {lit.split()[0]}" in card.locator("canvas").get_attribute("aria-label")
    # Its outline is really drawn, in the colour that nothing else has.
    assert card.locator("canvas").evaluate("""canvas => {
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let lit = 0;
        for (let i = 0; i < data.length; i += 4) lit += data[i] === 255 && data[i + 1] === 210 && data[i + 2] === 63;
        return lit;
    }""") > 100
    # A follow-up stays in its conversation.
    card.get_by_label("Question in this conversation").fill("Why?")
    card.get_by_label("Question in this conversation").press("Enter")
    assert finished(card, 1).locator(".answer").inner_text().strip()
    expect(page.locator(".card")).to_have_count(1)


def test_a_region_that_an_answer_has_found_is_drawn_and_can_be_asked_about(page: Page) -> None:
    sent, regions, lit, drawn = page.evaluate("""async () => {
        const { Conversations } = await import("/static/conversations.js");
        const sent = [];
        const connection = { send: (message) => Boolean(sent.push(message)) };
        const all = new Conversations(document.getElementById("cards"), document.getElementById("no-conversation"),
            connection, () => {});
        const frame = { stamp: "1.000000000", width: 320, height: 240, age_s: 0, shown: performance.now(), bitmap: null,
            regions: [{ id: "1", box: [0, 0, 50, 50], text: "a table" }] };
        const card = all.open(frame, "Find the red mug.");
        const answer = (region_ids, regions) => all.answer({ ask: sent.at(-1).ask, status: "OK", text: "so", error: "",
            confidence: 1, conversation: "c", stamp: frame.stamp, region_ids, regions });
        answer(["2"], [{ id: "2", box: [100, 100, 200, 200], label: "red mug" }]);
        const lit = card.view.canvas.dataset.lit;
        card.ask("Is it full?");
        answer([], []);
        card.view.point({ x: 150, y: 150 });
        answer(["2"], [{ id: "2", box: [100, 100, 200, 200], label: "red mug" }]);
        card.view.onDrawn(frame, [10, 100, 20, 110]);
        const regions = card.view.regions().map(({ id, text, drawn }) => [id, text ?? "", Boolean(drawn)]);
        const [r, g, b] = card.view.canvas.getContext("2d").getImageData(100, 150, 1, 1).data;
        all.close(card);
        return [sent.filter(({ type }) => type === "ask"), regions, lit, `${r} ${g} ${b}`];
    }""")
    assert [(ask["text"], ask["boxes"]) for ask in sent] == [
        ("Find the red mug.", []), ("Is it full?", []), ("Describe region 2.", []),
        ("Describe region 3.", [{"id": "3", "box": [10, 100, 20, 110]}])]
    assert {ask["conversation"] for ask in sent[1:]} == {"c"}
    assert sorted(regions) == [["1", "a table", False], ["2", "red mug", False], ["3", "", True]]
    assert lit == "2" and drawn != "48 54 60", "its outline stays, also when another answer is about nothing"


def test_what_is_asked_before_the_first_answer_stays_in_its_conversation(page: Page) -> None:
    sent: list[dict] = []

    def collect(payload: str | bytes) -> None:
        if '"ask"' in str(payload):
            sent.append(json.loads(payload))

    page.on("websocket", lambda socket: socket.on("framesent", collect))
    page.reload()
    expect(page.locator("#regions li").first).to_be_visible()
    page.evaluate("""() => {  // at once, before anything can have come back
        const ask = (form, text) => {
            form.querySelector("input").value = text;
            form.requestSubmit();
        };
        ask(document.getElementById("live-form"), "What is region 1?");
        for (const text of ["Why?", "What colour is it?"]) ask(document.querySelector(".card .composer"), text);
    }""")
    card = page.locator(".card").first
    for turn in range(3):
        expect(finished(card, turn).locator(".error")).to_be_hidden()
    asked = [message for message in sent if message["type"] == "ask"]
    assert [message["text"] for message in asked] == ["What is region 1?", "Why?", "What colour is it?"]
    assert not asked[0]["conversation"] and asked[1]["conversation"]
    assert asked[1]["conversation"] == asked[2]["conversation"]


@pytest.mark.parametrize("width", [1280, 390])
def test_cards_are_never_cut_and_come_before_the_regions_on_a_phone(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for _ in range(3):
        page.get_by_label("Question about the live picture").fill("What is region 1?")
        page.get_by_label("Question about the live picture").press("Enter")
    expect(page.locator(".card")).to_have_count(3)
    for card in page.locator(".card").all():
        for element in (card, card.get_by_role("button", name="Ask"), card.get_by_role("button", name="Close")):
            place = element.bounding_box()
            assert place["x"] >= 0 and place["x"] + place["width"] <= width, (place, width)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.getElementById('cards').scrollWidth <= document.getElementById('cards').clientWidth")
    conversations, regions = (page.locator(name).bounding_box() for name in ("#conversations", "#region-list"))
    if width < 500:
        assert conversations["y"] + conversations["height"] <= regions["y"]
    else:
        assert regions["x"] + regions["width"] <= conversations["x"]


def test_everything_is_reached_by_keyboard(page: Page) -> None:
    expected = {"who", "CANVAS", "live-question", "watch", "select", "right", "wrong", "correct", "health-title"}
    reached = set()
    while not expected <= reached and len(reached) < 300:
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.className"
                             " || document.activeElement.tagName")
        if name == "BODY" and "who" in reached:  # once around
            break
        reached.add(name)
    assert expected <= reached
    live = page.locator("#live canvas")
    live.focus()
    page.keyboard.press("Space")
    for key in ("ArrowRight", "ArrowDown"):
        for _ in range(8):
            page.keyboard.press(key)
    page.keyboard.press("Enter")
    assert finished(page.locator(".card").first).locator(".answer").inner_text().strip()


def test_a_correction_says_what_was_shown_and_what_is_right(page: Page, peer: Peer) -> None:
    corrections = peer.collect(Correction, "corrections")
    page.get_by_label("Your name").fill("Ada")
    item = page.locator("#regions li").first
    identifier, said = item.get_attribute("data-region"), item.locator(".region-text").inner_text()
    item.locator(".correct").click()
    item.locator(".correction input").fill("red valve")
    item.locator(".correction input").press("Enter")
    expect(item.locator(".outcome")).to_have_text("Noted: it is a red valve.")
    peer.wait_for(lambda: corrections, "the correction")
    correction = corrections[0]
    assert (correction.kind, correction.verdict) == (Correction.DESCRIPTION, Correction.WRONG)
    assert (correction.said, correction.right, correction.who) == (said, "red valve", "Ada")
    assert [region.id for region in correction.regions] == [identifier]
    assert correction.regions[0].bbox.size_x > 0 and correction.header.stamp.sec and correction.time.sec

    page.get_by_label("Question about the live picture").fill(f"What is region {identifier}?")
    page.get_by_label("Question about the live picture").press("Enter")
    turn = finished(page.locator(".card").first)
    turn.locator(".right").click()
    expect(turn.locator(".outcome")).to_have_text("Noted: right.")
    peer.wait_for(lambda: len(corrections) > 1, "the second correction")
    assert (corrections[1].kind, corrections[1].verdict) == (Correction.ANSWER, Correction.RIGHT)
    assert corrections[1].question == f"What is region {identifier}?" and corrections[1].query_id


def test_health_is_shown(page: Page) -> None:
    page.locator("summary").click()
    expect(page.locator("#health-groups table")).not_to_have_count(0)
    shown = page.locator("#health-groups").inner_text()
    for name in ("images a second", "descriptions a second", "stage", "questions_waiting", "resident memory"):
        assert name in shown, shown


def test_a_slow_browser_gets_crops_and_text_and_keeps_nobody_waiting(browser: Browser, address: str,
                                                                     page: Page) -> None:
    slow_context = browser.new_context(viewport={"width": 390, "height": 800})
    slow = slow_context.new_page()
    slow.goto(address)
    expect(slow.locator("#regions li").first).to_be_visible()
    session = slow_context.new_cdp_session(slow)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", {
        "offline": False, "latency": 20, "downloadThroughput": SLOW_BITS, "uploadThroughput": SLOW_BITS})
    caption = slow.locator("#live figcaption")
    expect(caption).to_contain_text("the regions alone")
    slow.get_by_label("Question about the live picture").fill("What is region 1?")
    slow.get_by_label("Question about the live picture").press("Enter")
    assert finished(slow.locator(".card").first).locator(".answer").inner_text().strip()
    assert slow.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # it fits a phone
    expect(page.locator("#live figcaption")).not_to_contain_text("the regions alone")
    slow_context.close()


def test_a_message_of_ten_megabytes_ends_its_connection_alone(page: Page, address: str) -> None:
    code = page.evaluate("""() => new Promise((resolve) => {
        const socket = new WebSocket(`ws://${location.host}/ws`);
        socket.onopen = () => socket.send("x".repeat(10 * 1024 * 1024));
        socket.onclose = (event) => resolve(event.code);
    })""")
    assert code in (1009, 1006)  # 1006 where the browser is still sending when the console has hung up
    before = page.locator("#regions li").count()
    assert before
    page.get_by_label("Question about the live picture").fill("What is region 1?")
    page.get_by_label("Question about the live picture").press("Enter")
    assert finished(page.locator(".card").first).locator(".answer").inner_text().strip()


def test_a_node_that_hangs_and_dies_is_named_and_taken_up_again(page: Page, node: list[Child], tmp_path: Path) -> None:
    node[0].process.send_signal(signal.SIGSTOP)  # or it might answer before it dies
    page.get_by_label("Question about the live picture").fill("Describe region 1 in detail.")
    page.get_by_label("Question about the live picture").press("Enter")
    node[0].process.send_signal(signal.SIGKILL)
    node[0].process.wait()
    turn = finished(page.locator(".card").first)
    expect(turn.locator(".error")).to_be_visible()
    assert "Failed" in turn.locator(".error").inner_text()
    expect(page.locator("#connection")).to_contain_text("no perception node is heard")
    node[0] = start_node(tmp_path)
    expect(page.locator("#connection")).to_contain_text("active", timeout=4 * WAIT_MS)
    page.get_by_label("Question about the live picture").fill("What is region 1?")
    page.get_by_label("Question about the live picture").press("Enter")
    assert finished(page.locator(".card").first).locator(".answer").inner_text().strip()


def test_a_click_beside_the_picture_says_so(page: Page) -> None:
    page.locator("#live canvas").evaluate("canvas => { canvas.style.height = '300px'; canvas.style.width = '600px'; }")
    page.locator("#live canvas").click(position={"x": 5, "y": 100})
    expect(page.locator("#live .notice")).to_have_text("That place is outside the picture.")
    expect(page.locator(".card")).to_have_count(0)
