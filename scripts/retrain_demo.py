"""How a robot learns from what people correct: recorded, corrected, retrained, swapped in, and taken back.

A simulated robot looks at scenes with things that the embedded model has never seen: rings and stars in a workshop, or
with `--world household` popcorn boxes, dish tubs and wine racks. A simulated operator corrects what it says, now and
then wrongly, by the messages that consoles send. `training.data from_bag` and `training.retrain` make a new model of
that, which the running node takes by `load_model` and gives back by `rollback`. scripts/retrain_demo.sh sets up and
runs it.

What stands behind `--` goes to training.retrain.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo import DemoError  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from processes import ProcessDied  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Correction, Region, RegionDescriptionArray  # noqa: E402
from ros_gpt4roi_interfaces.srv import LoadModel  # noqa: E402
from simulated_robot import ROOT, Robot  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from ros_gpt4roi.client import Client, ClientError, status_name  # noqa: E402
from ros_gpt4roi.client.connection import statuses  # noqa: E402
from ros_gpt4roi.configuration import ConfigError  # noqa: E402
from ros_gpt4roi.interrupts import Interrupts  # noqa: E402
from ros_gpt4roi.nodes.conversions import stamp_ns  # noqa: E402
from ros_gpt4roi.paths import find_model  # noqa: E402
from ros_gpt4roi.printable import show  # noqa: E402
from ros_gpt4roi.regular_file import read_json, write_whole  # noqa: E402
from ros_gpt4roi.runtime.pipeline import PipelineConfig  # noqa: E402
from ros_gpt4roi.runtime.vision_stage import VisionOptions  # noqa: E402
from ros_gpt4roi.sim.household.catalogue import AssetsError  # noqa: E402
from ros_gpt4roi.sim.rendering import RenderedScene  # noqa: E402
from ros_gpt4roi.sim.studio import RendererError  # noqa: E402
from ros_gpt4roi.sim.worlds import TABLETOP  # noqa: E402
from training.data.record_file import FILE, read_records  # noqa: E402
from training.data.report import Report  # noqa: E402
from training.evaluation.model import open_fitted  # noqa: E402
from training.retraining.kinds_called import Counts, count_kinds, share  # noqa: E402
from training.retraining.simulated import Person, region_id  # noqa: E402
from training.retraining.worlds import WORLDS, World  # noqa: E402

RATE_HZ = 2.0
UNSEEN = 1000  # added to the seed: scenes of the evaluation, from which nothing is learned
PAUSE_S = 0.05  # between two corrections; a person takes longer
LIMIT_S, SWAP_LIMIT_S = 600.0, 1800.0  # of anything that is waited for, on a busy machine
MARK = ".retrain_demo"  # in the folder that the next run may empty


class Steps:
    """Tells what is being done, and keeps how long it took."""

    def __init__(self) -> None:
        self.began, self.minutes = time.monotonic(), dict[str, float]()

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        began = time.monotonic()
        print(f"\n{len(self.minutes) + 1}. {title}", flush=True)
        yield
        taken = time.monotonic() - began
        self.minutes[name] = round(taken / 60, 2)
        print(f"   ({taken:.0f} s)" if taken < 120 else f"   ({taken / 60:.1f} min)", flush=True)

    @property
    def total(self) -> float:
        """Minutes since the start."""
        return round((time.monotonic() - self.began) / 60, 2)


Boxes = frozenset[tuple[str, int, int, int, int]]


def boxes_of(scene: RenderedScene) -> Boxes:
    """The boxes of a scene with their ids: by these, a frame's scene is known."""
    return frozenset((region_id(item), *item.box) for item in scene.objects)


def described_boxes(frame: RegionDescriptionArray) -> Boxes:
    """Those of a frame that was described."""
    return frozenset((item.region.id, *map(round, _corners(item.region))) for item in frame.descriptions)


def _corners(region: Region) -> tuple[float, float, float, float]:
    box, middle = region.bbox, region.bbox.center.position
    return (middle.x - box.size_x / 2, middle.y - box.size_y / 2, middle.x + box.size_x / 2,
            middle.y + box.size_y / 2)


def camera(world: World, seed: int, first: int = 0, scenes: int = 1) -> dict[str, Any]:
    """Parameters of the simulated camera: scenes with things of new kinds, each from one place."""
    return {"world": world.name, "split": world.split, "seed": seed, "scene": first, "scenes": scenes, "views": 1,
            "rate_hz": RATE_HZ, "width": world.image_size[0], "height": world.image_size[1], "depth": "none",
            "qos.reliability": "reliable"}


def wait_for_recorder(client: Client) -> None:
    """Wait until the recorder holds a frame and hears corrections: what it missed before could not be learned from."""
    held: list[float] = []

    def listen(message: DiagnosticArray) -> None:
        for _, status in statuses(message, client.node.get_namespace(), "recorder"):
            held.extend(float(pair.value) for pair in status.values if pair.key == "held [MiB]")

    subscription = client.node.create_subscription(DiagnosticArray, "/diagnostics", listen, 10)
    client.wait_for(lambda: any(held) and client.node.count_subscribers(client.topic_name("corrections")), LIMIT_S,
                    "a frame that the recorder holds")
    client.node.destroy_subscription(subscription)


def correct(client: Client, person: Person, seed: int, scenes: int) -> int:
    """Be the operator: look at each scene once, say what is wrong and what is right. Returns how many were seen."""
    world = person.world
    with world.renderer() as renderer:
        shown = [renderer.render(world.split, seed, place) for place in range(scenes)]
    waiting = {boxes_of(scene): scene for scene in shown if scene.objects}
    count = len(waiting)
    wait_for_recorder(client)
    began = client.node.get_clock().now().nanoseconds
    end = time.monotonic() + LIMIT_S + 2 * scenes / RATE_HZ
    for frame in client.descriptions(LIMIT_S):
        scene = waiting.pop(described_boxes(frame), None) if stamp_ns(frame.header.stamp) > began else None
        items = {} if scene is None else {region_id(item): item for item in scene.objects}
        for found in frame.descriptions if scene is not None else ():
            if not world.can_tell(scene, items[found.region.id]):
                continue
            judged = person.judge(items[found.region.id], found.text)
            client.correct(Correction(
                header=frame.header, kind=Correction.DESCRIPTION, regions=[found.region], said=judged.said,
                verdict=Correction.WRONG if judged.wrong else Correction.RIGHT, right=judged.right, who=judged.who))
            if person.corrected == 1 and judged.wrong:
                show(f"   it says: {judged.said}  the operator: {judged.right}")
            time.sleep(PAUSE_S)
            if person.done:
                return count - len(waiting)
        if not waiting or time.monotonic() > end:
            raise DemoError(f"only {person.corrected} descriptions of {count - len(waiting)} scenes are wrong")
    raise AssertionError  # descriptions() does not end


def call(client: Client, kind: type, name: str, request: Any) -> Any:
    """Call a service of the node."""
    service = client.node.create_client(kind, client.topic_name(name))
    client.wait_for(service.service_is_ready, LIMIT_S, f"the service {name}")
    future = service.call_async(request)
    client.wait_for(future.done, SWAP_LIMIT_S, f"the response of {name}")
    return future.result()


def look(client: Client, questions: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What the running node says of the picture: the model's version, and its text for each region and question."""
    response = client.describe(limit_s=LIMIT_S)
    if response.status != Answer.OK:
        raise DemoError(f"the picture was not described: {response.error}")
    texts = {f"region {item.region.id}": item.text for item in response.descriptions.descriptions}
    for question in questions:
        answer = client.ask(question, limit_s=LIMIT_S)
        if answer.status != Answer.OK:
            raise DemoError(f"{question!r} was answered with {status_name(answer)}: {answer.error}")
        texts[question] = answer.text
    return response.descriptions.model_version, texts


def scene_to_show(world: World, seed: int) -> RenderedScene:
    """The first scene of a seed in which there are things of all new kinds."""
    with world.renderer() as renderer:
        place = 0
        while True:
            scene = renderer.render(world.split, seed, place)
            if {*world.new_kinds} <= {item.kind for item in scene.objects if world.can_tell(scene, item)}:
                return scene
            place += 1


def swap(client: Client, world: World, model: Path, scene: RenderedScene) -> dict[str, Any]:
    """Have the running node take the new model, ask it, take the model back, and ask again."""
    client.wait_for_node(LIMIT_S)
    expected = boxes_of(scene)
    for frame in client.descriptions(LIMIT_S):
        if described_boxes(frame) == expected:
            break
    new = {f"region {region_id(item)}": item.kind for item in scene.objects
           if item.kind in world.new_kinds and world.can_tell(scene, item)}
    questions = [f"What kind of object is {name}?" for name in new] + [f"What colour is {next(iter(new))}?"]
    version, before = look(client, questions)
    response = call(client, LoadModel, "load_model", LoadModel.Request(model=str(model)))
    show(f"   load_model: {response.message}")
    found: dict[str, Any] = {"swapped": response.success, "message": response.message, "rolled_back": False,
                             "version_before": version, "before": before}
    if not response.success:
        return found
    swapped, after = look(client, questions)
    for name, kind in new.items():
        show(f"   {name}, a {world.word(kind)}: {before[name]}  now: {after[name]}")
    taken = call(client, Trigger, "rollback", Trigger.Request())
    show(f"   rollback: {taken.message}")
    back, again = look(client, questions)
    same = taken.success and (back, again) == (version, before)
    show(f"   {len(again)} texts are {'exactly those' if same else 'NOT those'} from before")
    return {**found, "version_swapped": swapped, "after": after, "again": again, "rolled_back": same,
            "shown_right": sum(world.kinds_called(after[name]) == {kind} for name, kind in new.items()),
            "shown": len(new)}


def evaluate(robot: Robot, world: World, model: Path, seed: int, scenes: int) -> dict[str, Counts]:
    """Count the kinds in scenes that nothing was learned from, as the node's own pipeline describes them."""
    pipeline = open_fitted(model, PipelineConfig(vision=VisionOptions(backend="torch")))
    return {split: count_kinds(pipeline, world, split, seed, scenes, robot.check) for split in ("test", world.split)}


def figures(world: World, before: dict[str, Counts], after: dict[str, Counts]) -> dict[str, Any]:
    """The fractions that were called by their kind, and of how many things."""
    found: dict[str, Any] = {}
    for name, split, kinds in (("new", world.split, world.new_kinds), ("old", "test", world.old_kinds),
                               ("old_in_the_new_room", world.split, world.old_kinds)):
        found |= {f"{name}_before": share(before[split], kinds), f"{name}_after": share(after[split], kinds),
                  f"{name}_count": sum(before[split][kind][1] for kind in kinds if kind in before[split])}
    return found


def run(options: argparse.Namespace, interrupts: Interrupts) -> dict[str, Any]:
    """All of it. Returns what the JSON file holds."""
    world = WORLDS[options.world]
    out, steps, start = options.out, Steps(), find_model(world.name)
    bags, data, model = out / "bags", out / "data", out / f"{world.name}_2"
    person = Person(world, options.corrections, options.seed)
    scenes = options.corrections // world.least_wrong + 10
    with Robot(out / "logs", interrupts) as robot, ExitStack() as stack:
        # The gate asks a hundred questions beside the camera's frames: on a busy machine, one of them may take long.
        node: dict[str, Any] = {"model": world.name, "scheduler.answer_timeout_s": LIMIT_S}
        if options.max_loss is not None:
            node["swap.max_loss"] = options.max_loss
        with steps.step("start", "A robot starts"):
            stack.enter_context(robot.running({"perception": node}))
            client = stack.enter_context(Client(name="retrain_demo", check=robot.check))
            client.wait_for_node(LIMIT_S)
        seen = {"sim_camera": camera(world, options.seed, 0, scenes), "recorder": {
            "storage.folder": bags, "qos.image.reliability": "reliable"}}
        with steps.step("correct", f"An operator corrects {options.corrections} descriptions, 5 % of them wrongly"), \
                robot.running(seen):
            pictures = correct(client, person, options.seed, scenes)
            print(f"   {person.corrected} corrected and {person.confirmed} confirmed in {pictures} scenes")
        with steps.step("from_bag", "What was recorded becomes a data set"):
            robot.run("from_bag", "training.data", "from_bag", bags, "--out", data)
        judged = sum(bool(region.judgements) for record in read_records(data / FILE, Report(0))
                     for region in record.regions)
        if judged != person.corrected + person.confirmed:
            raise DemoError(f"{judged} judged regions are in {data}; expected {person.corrected + person.confirmed}")
        with steps.step("retrain", "The model learns"):
            memory = robot.run("retrain", "training.retrain", "--model", start, "--data", data, "--out", model,
                               "--seed", options.seed, *options.retrain)
        with steps.step("evaluate", f"Both models describe {options.scenes} scenes of either room, from which nothing "
                                    "was learned"):
            measured = figures(world, *(evaluate(robot, world, folder, options.seed + UNSEEN, options.scenes)
                                 for folder in (start, model)))
        with steps.step("swap", "The running node takes the new model, and takes it back"):
            scene = scene_to_show(world, options.seed + UNSEEN)
            with robot.running({"sim_camera": camera(world, scene.seed, scene.index)}):
                shown = swap(client, world, model, scene)
    card = read_json(model / "card.json")
    return {**measured, "rolled_back": shown.pop("rolled_back"), "minutes": steps.total,
            "minutes_by_step": steps.minutes, "world": world.name, "seed": options.seed,
            "corrections": person.corrected, "wrong_on_purpose": person.mistaken,
            "confirmations": person.confirmed, "pictures": pictures,
            "scenes": options.scenes, "steps": card["steps"], "peak_memory_mib": round(memory),
            "max_loss": options.max_loss, "retrain_options": options.retrain, "swap": shown, "cores": os.cpu_count()}


def table(results: dict[str, Any]) -> str:
    """The figures for people."""
    world = WORLDS[results["world"]]
    new = ", ".join(map(world.word, world.new_kinds))
    lines = [f"{'called by their kind':<60}{'before':>8}{'after':>8}"]
    for name, what in (("new", f"new kinds ({new})"), ("old", f"the {len(world.old_kinds)} old kinds"),
                       ("old_in_the_new_room", "old kinds in the new room")):
        before, after = (f"{100 * results[f'{name}_{when}']:.1f} %" for when in ("before", "after"))
        lines.append(f"{what + ', ' + str(results[f'{name}_count']) + ' things':<60}{before:>8}{after:>8}")
    lines.append(f"{results['minutes']:.0f} minutes, of which {results['minutes_by_step']['retrain']:.0f} for the "
                 f"retraining; {results['peak_memory_mib']} MiB of memory for it")
    return "\n".join(lines)


def prepare(out: Path) -> None:
    """Empty the folder of an earlier demonstration, or make it. Raises DemoError where it is another's."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise DemoError(f"{out} holds something else; expected an empty folder, or one of an earlier demonstration")
    shutil.rmtree(out, ignore_errors=True)
    (out / "logs").mkdir(parents=True)
    (out / MARK).touch()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="retrain_demo.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default=TABLETOP, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, mistakes and training (default %(default)s)")
    parser.add_argument("--corrections", type=int, default=200, metavar="N", help="how many (default %(default)s)")
    parser.add_argument("--scenes", type=int, default=150, metavar="N",
                        help="that each model describes, of either world (default %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output" / "retrain", metavar="FOLDER",
                        help="for all that is made; emptied at the start (default demo_output/retrain)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--max-loss", type=float, metavar="SHARE",
                        help="the node's parameter swap.max_loss: with few corrections, a model forgets more than the "
                             "default allows")
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:place])
    options.retrain = list(arguments[place + 1:])
    for name, least in (("seed", 0), ("corrections", 10), ("scenes", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)}, expected at least {least}")
    options.out = options.out.resolve()
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    try:
        prepare(options.out)
        with Interrupts() as interrupts:  # within, so that a signal while the children are stopped does no harm
            results = run(options, interrupts)
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        for path in filter(None, (options.out / "results.json", options.json)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text.encode())
    except KeyboardInterrupt:
        print("\nretrain_demo.py: interrupted", file=sys.stderr)
        return 130
    except (DemoError, ClientError, ProcessDied, ConfigError, RendererError, AssetsError, OSError) as error:
        print(f"\nretrain_demo.py: {error}", file=sys.stderr)
        return 1
    print(f"\n{table(results)}")
    if not results["rolled_back"]:
        print(f"\nretrain_demo.py: the new model was not taken and taken back; see {options.out}", file=sys.stderr)
        return 1
    model = options.out / f"{options.world}_2"
    print(f"\nDone: {model} is the new model, {model / 'report.html'} what became of each correction.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
