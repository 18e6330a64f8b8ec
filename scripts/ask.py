"""Ask the running perception node a question; the answer is printed as it grows.

    . scripts/env.sh
    python scripts/ask.py "What is region 2?"
    python scripts/ask.py --conversation ID "Why?"       # goes on with an earlier answer's conversation
"""

from __future__ import annotations

import argparse
import sys

from robot_client import STATUS, ClientError, RobotClient

from ros_gpt4roi.printable import printable, show


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--conversation", default="", metavar="ID", help="conversation to go on with")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="how long to wait (60)")
    arguments = parser.parse_args()
    try:
        with RobotClient("ask") as client:
            client.wait_for_node(arguments.limit)
            answer = client.ask(arguments.question, arguments.conversation,
                                lambda piece: show(piece, end=""), arguments.limit)
    except (ClientError, KeyboardInterrupt) as error:
        print(f"ask.py: {error or 'interrupted'}", file=sys.stderr)
        return 1
    print()
    if answer.status != answer.OK:
        print(f"ask.py: {STATUS.get(answer.status, answer.status)}: {printable(answer.error)}", file=sys.stderr)
        return 1
    regions = f"regions: {', '.join(answer.region_ids)}; " if answer.region_ids else ""
    show(f"({regions}to go on: --conversation {answer.conversation_id})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
