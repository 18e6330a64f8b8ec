"""Ask the running perception node one question; the answer is printed as it comes.

    ros2 run ros_gpt4roi ask "What is region 2?"
    ros2 run ros_gpt4roi ask --conversation ID "Why?"       # goes on with an earlier answer's conversation

Exit status: 0 answered; 1 another status than OK; 2 wrong arguments; 3 no perception node, or no answer from it;
130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from rclpy.utilities import remove_ros_args
from ros_gpt4roi_interfaces.msg import Answer

from ros_gpt4roi.client import STATUS_NAMES, AskReply, Client, ClientError
from ros_gpt4roi.interrupts import Interrupts
from ros_gpt4roi.messages import corners, stamp_text
from ros_gpt4roi.printable import printable, show

_CANCEL_S = 10.0  # for the answer to a question that Ctrl-C has cancelled


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; `ros2 run ros_gpt4roi ask`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="ask", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", help='in words; "region 2" speaks of a region')
    add_options(parser)
    options = parser.parse_args(remove_ros_args(sys.argv if args is None else ["ask", *args])[1:])
    return ask(options.question, options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `ask` and the console have in common."""
    parser.add_argument("--conversation", default="", metavar="ID", help="conversation to go on with")
    parser.add_argument("--namespace", default="", help="where the perception node is, such as /robot1")
    parser.add_argument("--json", action="store_true", help="print the answer as one JSON object")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS",
                        help="how long to wait for the answer (%(default)s)")


def ask(question: str, options: argparse.Namespace) -> int:
    """Asks, prints the answer, and returns the exit status."""
    with Interrupts() as interrupts:
        try:
            with Client(name="ask", namespace=options.namespace) as client:
                reply = client.ask_async(question, conversation_id=options.conversation, limit_s=options.limit,
                                         on_text=(lambda piece: None) if options.json else _show_piece)
                answer = _answer(client, reply, interrupts)
        except KeyboardInterrupt:
            print("ask: interrupted", file=sys.stderr)
            return interrupts.status
        except ClientError as error:
            print(f"ask: {printable(str(error), 2000)}", file=sys.stderr)
            return 3
    if options.json:
        print(json.dumps(answer_as_json(answer)))
    else:
        print()
        _show_rest(answer)
    if interrupts.count:
        return interrupts.status
    return 0 if answer.status == Answer.OK else 1


def answer_as_json(answer: Answer) -> dict[str, Any]:
    """An answer as JSON has it; boxes are x1, y1, x2, y2 in pixels of the image."""
    regions = [{"id": region.id, "box": list(corners(region.bbox))} for region in answer.regions]
    return {"status": STATUS_NAMES.get(answer.status, str(answer.status)), "text": answer.text, "error": answer.error,
            "region_ids": list(answer.region_ids), "evidence_ids": list(answer.evidence_ids), "regions": regions,
            "confidence": answer.confidence, "conversation_id": answer.conversation_id,
            "stamp": stamp_text(answer.header.stamp)}


def _answer(client: Client, reply: AskReply, interrupts: Interrupts) -> Answer:
    """The answer; after a first Ctrl-C that of a question that was cancelled, after a second a KeyboardInterrupt."""
    client.wait_for(lambda: reply.done() or interrupts.count, math.inf, "an answer")
    if reply.cancel():
        client.wait_for(lambda: reply.done() or interrupts.count > 1, _CANCEL_S, "the end of a cancelled question")
    if not reply.done():
        raise KeyboardInterrupt
    return reply.result()


def _show_piece(piece: str) -> None:
    show(piece, end="")


def _show_rest(answer: Answer) -> None:
    if answer.status != Answer.OK:
        status = STATUS_NAMES.get(answer.status, answer.status)
        print(f"ask: {status}: {printable(answer.error)}", file=sys.stderr)
    if answer.conversation_id:
        regions = f"regions: {', '.join(answer.region_ids)}; " if answer.region_ids else ""
        show(f"({regions}to go on: --conversation {answer.conversation_id})")


if __name__ == "__main__":
    sys.exit(main())
