"""Ask the running perception node one question; the answer is printed as it comes.

    ros2 run ros_gpt4roi ask "What is region 2?"
    ros2 run ros_gpt4roi ask --conversation ID "Why?"       # goes on with an earlier answer's conversation
    ros2 run ros_gpt4roi ask --watch "Is there a red mug?"  # a line each time that the answer changes

Exit status: 0 answered, or watched until the time was over; 1 another status than OK, or the node ended the watch;
2 wrong arguments; 3 no perception node, or no answer from it; 130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from rclpy.exceptions import InvalidNamespaceException
from rclpy.utilities import remove_ros_args
from rclpy.validate_namespace import validate_namespace
from ros_gpt4roi_interfaces.action import Watch
from ros_gpt4roi_interfaces.msg import Answer

from ros_gpt4roi.client import Client, ClientError, Reply, status_name
from ros_gpt4roi.interrupts import Interrupts
from ros_gpt4roi.messages import corners, stamp_text
from ros_gpt4roi.printable import printable, show

_CANCEL_S = 10.0  # for the answer to a question that Ctrl-C has cancelled

T = TypeVar("T")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; `ros2 run ros_gpt4roi ask`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="ask", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", help='in words; "region 2" speaks of a region')
    add_options(parser)
    parser.add_argument("--watch", action="store_true", help="ask again about newer frames, for --limit seconds or "
                        "until Ctrl-C; with --json, a line has the answer before as well")
    options = parser.parse_args(remove_ros_args(sys.argv if args is None else ["ask", *args])[1:])
    if options.watch and options.conversation:
        parser.error("--conversation does not go with --watch, whose questions each open their own")
    try:
        return watch(options.question, options) if options.watch else ask(options.question, options)
    except BrokenPipeError:  # of `ask ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes at its end
        return 128 + signal.SIGPIPE


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `ask` and the console have in common; errors begin with the parser's program."""
    parser.set_defaults(program=parser.prog)
    parser.add_argument("--conversation", default="", metavar="ID", help="conversation to go on with")
    parser.add_argument("--namespace", default="", type=_namespace,
                        help="where the perception node is, such as /robot1")
    parser.add_argument("--json", action="store_true", help="print the answer as one JSON object")
    parser.add_argument("--limit", type=_seconds, metavar="SECONDS", help="how long to wait for the answer (60)")


def _namespace(text: str) -> str:
    try:
        validate_namespace(f"/{text.strip('/')}")
    except InvalidNamespaceException as error:
        raise argparse.ArgumentTypeError(f"namespace is {printable(text)!r}, expected one such as /robot1") from error
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"limit is {printable(text)!r}, expected seconds above 0")
    return seconds


def limit(options: argparse.Namespace) -> dict[str, Any]:
    """The argument `limit_s`, where the option was given."""
    return {} if options.limit is None else {"limit_s": options.limit}


def ask(question: str, options: argparse.Namespace) -> int:
    """Asks, prints the answer, and returns the exit status."""
    with Interrupts() as interrupts:
        try:
            with Client(name="ask", namespace=options.namespace) as client:
                reply = client.ask_async(question, conversation_id=options.conversation, **limit(options),
                                         on_text=(lambda piece: None) if options.json else _show_piece)
                answer = _result(client, reply, interrupts)
        except KeyboardInterrupt:
            print(f"{options.program}: interrupted", file=sys.stderr)
            return interrupts.status
        except ClientError as error:
            print(f"{options.program}: {printable(str(error), 2000)}", file=sys.stderr)
            return 3
    if options.json:
        print(json.dumps(answer_as_json(answer)))
    else:
        print()
        _show_rest(answer, options.program)
    if interrupts.count:
        return interrupts.status
    return 0 if answer.status == Answer.OK else 1


def watch(question: str, options: argparse.Namespace) -> int:
    """Watches, prints each answer that is another, and returns the exit status."""
    def on_change(change: Watch.Feedback) -> None:
        if options.json:
            print(json.dumps({"before": answer_as_json(change.before), "answer": answer_as_json(change.answer)}),
                  flush=True)
        elif change.answer.status == Answer.OK:
            show(" ".join(change.answer.text.split()))
        else:
            show(f"[{_failure(change.answer)}]")

    with Interrupts() as interrupts:
        try:
            with Client(name="ask", namespace=options.namespace) as client:
                reply = client.watch_async(question, on_change=on_change, **limit(options))
                result = _result(client, reply, interrupts)
        except KeyboardInterrupt:
            return interrupts.status
        except ClientError as error:
            print(f"{options.program}: {printable(str(error), 2000)}", file=sys.stderr)
            return 3
    if reply.aborted:
        print(f"{options.program}: {_failure(result.answer)}", file=sys.stderr)
    return interrupts.status if interrupts.count else int(reply.aborted)


def answer_as_json(answer: Answer) -> dict[str, Any]:
    """An answer as JSON has it; boxes are x1, y1, x2, y2 in pixels of the image."""
    regions = [{"id": region.id, "box": list(corners(region.bbox))} for region in answer.regions]
    return {"status": status_name(answer), "text": answer.text, "error": answer.error,
            "region_ids": list(answer.region_ids), "evidence_ids": list(answer.evidence_ids), "regions": regions,
            "confidence": answer.confidence, "conversation_id": answer.conversation_id,
            "stamp": stamp_text(answer.header.stamp)}


def _result(client: Client, reply: Reply[T], interrupts: Interrupts) -> T:
    """The result; after a first Ctrl-C that of what was cancelled, after a second a KeyboardInterrupt."""
    client.wait_for(lambda: reply.done() or interrupts.count, math.inf, "an answer")
    if reply.cancel():
        client.wait_for(lambda: reply.done() or interrupts.count > 1, _CANCEL_S, "the end of a cancelled question")
    if not reply.done():
        raise KeyboardInterrupt
    return reply.result()


def _show_piece(piece: str) -> None:
    show(piece, end="")


def _failure(answer: Answer) -> str:
    return f"{status_name(answer)}: {printable(answer.error)}"


def _show_rest(answer: Answer, program: str) -> None:
    if answer.status != Answer.OK:
        print(f"{program}: {_failure(answer)}", file=sys.stderr)
    if answer.conversation_id:
        regions = f"regions: {', '.join(answer.region_ids)}; " if answer.region_ids else ""
        show(f"({regions}to go on: --conversation {answer.conversation_id})")


if __name__ == "__main__":
    sys.exit(main())
