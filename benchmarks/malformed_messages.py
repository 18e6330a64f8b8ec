"""Malformed messages to every input of the perception node, with known-good ones in between.

    python -m benchmarks.malformed_messages --count 20000 --json benchmarks/results/malformed_messages.json

The node runs in a process of its own, with the embedded model. Messages of all kinds (`malformed/`) are sent in a
random order that the seed gives. After every hundred of them a frame is described and asked about whose right answers
are known. Status 1 where one of these was wrong, a request stayed without a reply, something failed inside the node, or
the node's memory, threads or file descriptors grew.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

from benchmarks.common import machine_facts, use_own_ros_domain, write_results
from benchmarks.known_good import STATUS, KnownGood, ObservedStation
from benchmarks.malformed.kinds import KINDS, MAX_PIXELS
from benchmarks.malformed.senders import Senders

_BATCH, _AT_ONCE = 100, 8  # more at once would be lost: services of rclpy's own keep ten requests
# Counted by the node where it failed itself, rather than refused what was sent.
_FAULTS = ("worker_restarts", "query FAILED", "describe_regions FAILED", "frame FAILED", "answer not published",
           "descriptions not published", "request without a result")
_PARAMETERS = {"image.max_pixels": MAX_PIXELS, "pipeline.reuse_distance": 0.0, "pipeline.answer_tokens": 32,
               "conversation.follow_up_s": 0.0}  # a known text must not go on about a malformed frame
_GROWTH_PERCENT = 10.0  # of resident memory, in the second half of the messages since the node was configured


def use_compressed_images(station: ObservedStation, senders: Senders) -> None:
    """Configure the node anew, to take images from `image/compressed`."""
    def change(number: int) -> None:
        request = ChangeState.Request()
        request.transition.id = number
        future = senders.clients["perception/change_state"].call_async(request)
        station.wait_for(future.done, f"transition {number}")
        if not future.result().success:
            raise SystemExit(f"transition {number} failed:\n{station.log}")

    for number in (4, 2):  # deactivate, clean up
        change(number)
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="compressed")
    future = senders.clients["perception/set_parameters"].call_async(SetParameters.Request(
        parameters=[Parameter(name="transport", value=value)]))
    station.wait_for(future.done, "the parameter transport")
    for number in (1, 3):  # configure, activate
        change(number)
    station.compressed = True
    senders.wait_for_node()


def main() -> int:
    """Send what the command line asks for; return 1 where the node did not stand it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--count", type=int, default=20_000, help="malformed messages")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    use_own_ros_domain()
    with ObservedStation(_PARAMETERS) as station:
        good, random = KnownGood(station), Random(options.seed)
        senders = Senders(station, good)
        senders.wait_for_node()
        phases: list[list[tuple[float, int, int]]] = []
        for compressed in (False, True):
            if compressed:
                use_compressed_images(station, senders)
            other = "image" if compressed else "image/compressed"
            kinds = [kind for kind in KINDS if kind.input != other]
            count = options.count // 2 + (options.count % 2 if compressed else 0)
            order = (kinds * (count // len(kinds) + 1))[:count]
            random.shuffle(order)
            phases.append([])
            for begin in range(0, count, _BATCH):
                for place, kind in enumerate(order[begin:begin + _BATCH], start=1):
                    senders.send(kind, random)
                    if place % _AT_ONCE == 0:
                        senders.settle()
                senders.settle()
                good.check()
                phases[-1].append(station.resources())
        results = report(station, good, senders, phases, options)
    write_results(options.json, results)
    for text in results["found"]:
        print(text, file=sys.stderr)
    return int(bool(results["found"]))


def report(station: ObservedStation, good: KnownGood, senders: Senders,
           phases: list[list[tuple[float, int, int]]], options: argparse.Namespace) -> dict[str, Any]:
    """What was sent, what became of it, what the node says, and what is wrong with that."""
    counters = station.fresh_counters()
    inputs: dict[str, dict[str, dict[str, int]]] = {}
    for (where, name), outcomes in senders.outcomes.items():
        inputs.setdefault(where, {})[name] = dict(sorted(outcomes.items()))
    found = [f"wrong: {text}" for text in good.wrong]
    found += [f"the node counts {counters[name]} of {name!r}" for name in _FAULTS if counters.get(name)]
    for samples in phases:
        middle, last = samples[len(samples) // 2], samples[-1]
        if last[0] > middle[0] * (1 + _GROWTH_PERCENT / 100):
            found.append(f"resident memory has grown from {middle[0]:.0f} to {last[0]:.0f} MiB")
        if last[1:] != middle[1:]:
            found.append(f"threads and file descriptors were {middle[1:]} and are {last[1:]}")
    if len(station.answers) != station.asked:
        found.append(f"{station.asked} questions and clicks were sent and {len(station.answers)} answered")
    if "Traceback" in station.log:
        found.append("the node's log has a traceback")
    return {"command": "python -m benchmarks.malformed_messages " + " ".join(sys.argv[1:]), "machine": machine_facts(),
            "messages": options.count, "known_good": good.checked, "known_good_right": good.right, "inputs": inputs,
            "answers": dict(sorted(Counter(STATUS[answer.status] for answer in station.answers).items())),
            "node": {"peak_mib": station.peak_mib(), "log_bytes": len(station.log), "counters": counters,
                     "memory_threads_descriptors": [samples[::max(1, len(samples) // 10)] for samples in phases]},
            "found": found}


if __name__ == "__main__":
    sys.exit(main())
