"""Minutes of camera frames and questions of all sorts; what the node holds must stay the same.

    python -m benchmarks.soak --minutes 10 --json benchmarks/results/soak.json

The node runs in a process of its own, with the embedded model. Frames of a moving camera come all the time; a few
askers ask, each as soon as it has its answer: over the action and the topic, in conversations, with cancels and with
questions that must be refused. Status 1 where an answer is missing, where threads or file descriptors change, or where
resident memory, as the mean of each tenth of the time, rises by more than 2 %. The first 30 % of the time do not count,
nor the first 200 answers, by which the node's caches of 32 conversations and 8 frames are full.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from ros_gpt4roi_interfaces.action import Ask
from ros_gpt4roi_interfaces.msg import Answer, Query, Region
from ros_gpt4roi_interfaces.srv import DescribeRegions
from std_msgs.msg import String
from vision_msgs.msg import Detection2D, Detection2DArray

from benchmarks.common import machine_facts, use_own_ros_domain, write_results
from benchmarks.known_good import HEIGHT, STATUS, WIDTH, ObservedStation
from ros_gpt4roi.messages import box_to_message
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import Scene

_FRAMES_HZ = 4.0
_ASKERS = 3
_SAMPLE_S = 1.0
_SETTLED, _WARM_UP_ANSWERS = 0.3, 200  # the part of the time, and the answers, after which memory is compared
_PARTS = 10
_VIEWS = 20


class _Sample(NamedTuple):
    seconds: float
    answers: int
    memory_mib: float
    threads: int
    descriptors: int


class Askers:
    """Asks one thing after the other, and counts what becomes of each.

    Args:
        station: The node.
        random: Chooses what is asked.
    """

    def __init__(self, station: ObservedStation, random: Random) -> None:
        self._station, self._random = station, random
        self.asked: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.going_on = True
        self._open = [self._ask() for _ in range(_ASKERS)]

    def step(self) -> bool:
        """Go on with whatever has been replied to; False once all is answered after `going_on` was set to False."""
        self._open = [asker for asker in self._open if next(asker, None)]
        return bool(self._open)

    def _ask(self) -> Iterator[bool]:
        """One asker: yields while it waits."""
        ways = (self._question, self._conversation, self._cancelled, self._refused, self._text, self._described)
        while self.going_on:
            yield from self._random.choice(ways)()

    def _goal(self, way: str, query: Query, cancel: bool = False) -> Iterator[bool]:
        self.asked[way] += 1
        self._station.asked += 1
        sent = self._station.ask.send_goal_async(Ask.Goal(query=query))
        while not sent.done():
            yield True
        goal = sent.result()
        result = goal.get_result_async()
        if cancel:
            goal.cancel_goal_async()
        while not result.done():
            yield True
        self._answer: Answer = result.result().result.answer
        self.outcomes[STATUS[self._answer.status]] += 1

    def _question(self) -> Iterator[bool]:
        yield from self._goal("question", Query(text=self._random.choice(
            ("What is region 1?", "What colour is region 1?", "How many red things are there?", "Is there a mug?"))))

    def _conversation(self) -> Iterator[bool]:
        conversation = ""
        for text in ("What kind of object is region 1?", "What colour is it?", "Why?"):
            yield from self._goal("conversation", Query(text=text, conversation_id=conversation))
            conversation = self._answer.conversation_id
            if self._answer.status != Answer.OK:  # such as one that was closed for newer ones
                return

    def _cancelled(self) -> Iterator[bool]:
        yield from self._goal("cancelled question", Query(text="What is left of region 1?"), cancel=True)

    def _refused(self) -> Iterator[bool]:
        yield from self._goal("wrong question", self._random.choice((
            Query(text="What is region 99?"), Query(text=""), Query(text="x" * 2001), Query(text="<image>"),
            Query(text="Why?", conversation_id="none"), Query(text="What?", boxes=[Region()] * 300))))

    def _text(self) -> Iterator[bool]:
        self.asked["text"] += 1
        self._station.asked += 1
        self._station.texts.publish(String(data="What is region 1?"))
        before = len(self._station.answers)
        while len(self._station.answers) == before:  # some answer; at the end, all are waited for
            yield True

    def _described(self) -> Iterator[bool]:
        self.asked["describe_regions"] += 1
        future = self._station.describe.call_async(DescribeRegions.Request())
        while not future.done():
            yield True
        self.outcomes[f"described {STATUS[future.result().status]}"] += 1


def soak(station: ObservedStation, views: Sequence[Scene], options: argparse.Namespace) -> dict[str, Any]:
    """Send frames and questions for as many minutes as the command line says, and watch.

    Returns:
        What was asked, what was answered, the samples of resident memory, and what is wrong with these.
    """
    askers, began = Askers(station, Random(options.seed)), time.monotonic()
    samples: list[_Sample] = []
    sent, frames = -1, 0
    while (passed := time.monotonic() - began) < options.minutes * 60:
        if int(passed * _FRAMES_HZ) > sent:
            sent, frames = int(passed * _FRAMES_HZ), frames + 1
            publish(station, views[frames % len(views)])
        if not samples or passed >= samples[-1].seconds + _SAMPLE_S:
            samples.append(_Sample(passed, len(station.answers), *station.resources()))
        askers.step()
        station.spin()
    askers.going_on = False
    station.wait_for(lambda: not askers.step(), "the last replies")
    station.wait_for_answers()
    return judge(station, askers, samples, options.rise_percent)


def publish(station: ObservedStation, view: Scene) -> None:
    """Publish a frame and its boxes."""
    header = station.new_header()
    station.send_image(view, header)
    station.detections.publish(Detection2DArray(header=header, detections=[
        Detection2D(id=str(place), bbox=box_to_message(item.box)) for place, item in enumerate(view.objects, start=1)]))


def judge(station: ObservedStation, askers: Askers, samples: Sequence[_Sample],
          rise_percent: float) -> dict[str, Any]:
    """What is told of the samples and counters, and what is wrong with them."""
    counters = station.fresh_counters()
    settled = [sample for sample in samples
               if sample.seconds >= _SETTLED * samples[-1].seconds and sample.answers >= _WARM_UP_ANSWERS]
    if len(settled) < _PARTS:
        raise SystemExit(f"{len(station.answers)} answers in {samples[-1].seconds:.0f} s are too few to compare memory "
                         f"after the first {_WARM_UP_ANSWERS}")
    size = len(settled) // _PARTS
    parts = [statistics.fmean(sample.memory_mib for sample in settled[place:place + size])
             for place in range(0, size * _PARTS, size)]
    # Not how far it falls: the allocator gives memory back when it likes.
    rise = 100 * max(part / lowest - 1 for part, lowest in zip(parts, accumulate(parts, min)))
    answered = Counter(STATUS[answer.status] for answer in station.answers)
    at_node = sum(value for name, value in counters.items() if name.startswith("answers_"))
    found = []
    if len(station.answers) != station.asked:
        found.append(f"{station.asked} were asked and {len(station.answers)} answered")
    if at_node != counters["questions_received"]:
        found.append(f"the node has received {counters['questions_received']} questions and answered {at_node}")
    if counters["frames_received"] != counters["frames_dropped"] + counters["frames_ok"]:
        found.append(f"of {counters['frames_received']} frames, {counters['frames_dropped']} were dropped and "
                     f"{counters['frames_ok']} described")
    if answered["FAILED"] or counters.get("worker_restarts"):
        found.append(f"{answered['FAILED']} answers failed, the worker was restarted "
                     f"{counters.get('worker_restarts', 0)} times")
    if rise > rise_percent:
        found.append(f"resident memory rises by {rise:.1f} %, expected at most {rise_percent:g} %")
    for name in ("threads", "descriptors"):
        if len(values := {getattr(sample, name) for sample in settled}) > 1:
            found.append(f"{name} change: {sorted(values)}")
    return {"questions": station.asked, "memory_rise_percent": rise, "asked": dict(askers.asked),
            "answered": dict(answered), "described": askers.outcomes["described OK"],
            "node": {"memory_mib": statistics.fmean(parts), "memory_parts_mib": parts, "threads": settled[-1].threads,
                     "file_descriptors": settled[-1].descriptors, "counters": counters,
                     "samples": [sample._asdict() for sample in samples[::max(1, len(samples) // 30)]]},
            "found": found}


def main() -> int:
    """Run for as long as the command line says; return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rise-percent", type=float, default=2.0, help="how far memory may rise")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    use_own_ros_domain()
    with TabletopRenderer(WIDTH, HEIGHT) as renderer:
        views = [renderer.render_view("test", 0, 0, step) for step in range(_VIEWS)]
    with ObservedStation() as station:
        results = soak(station, [view for view in views if view.objects], options)
    write_results(options.json, {"command": "python -m benchmarks.soak " + " ".join(sys.argv[1:]),
                                 "machine": machine_facts(), "minutes": options.minutes, **results})
    for text in results["found"]:
        print(text, file=sys.stderr)
    return int(bool(results["found"]))


if __name__ == "__main__":
    sys.exit(main())
