"""Looks at the records of pictures: accept, edit, reject, draw, by keyboard alone. `?` on the page lists the keys.

``python -m training.review FOLDER`` serves the page; ``--export`` only writes what was reviewed into records.jsonl.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ros_gpt4roi.console.access import Access
from ros_gpt4roi.console.serving import add_options, check_options, serve
from training.data.record import RecordError
from training.errors import tells_errors
from training.review.server import review_app
from training.review.store import Store

_TOKEN_VARIABLE = "ROS_GPT4ROI_REVIEW_TOKEN"


@tells_errors(RecordError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 where all is well, 1 where the folder cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m training.review", description=__doc__)
    parser.add_argument("folder", type=Path, help="with records.jsonl")
    parser.add_argument("--export", action="store_true", help="write what was reviewed, and end")
    add_options(parser, 8451, _TOKEN_VARIABLE)
    options = parser.parse_args(arguments)
    check_options(parser, options, _TOKEN_VARIABLE)
    with closing(Store(options.folder)) as store:
        if options.export:
            for what, count in store.export().items():
                print(f"{count} records {what}")
            return 0
        counts = store.counts()
        print(f"{options.folder}: {counts['open']} records to look at, {counts['accepted']} accepted, "
              f"{counts['rejected']} rejected", flush=True)
        for problem in store.problems:
            print(f"left out: {problem}", flush=True)
        return serve(review_app(store, Access(options.token, options.allow_host)), "Review page", options)


if __name__ == "__main__":
    sys.exit(main())
