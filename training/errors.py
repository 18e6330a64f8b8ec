"""What can be wrong with a training, and how a command says so."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ros_gpt4roi.configuration import ConfigError

Command = Callable[..., int]


class RecipeError(ConfigError):
    """A recipe that cannot be run; the message names the file, the field and what was expected."""


@contextmanager
def training_packages() -> Iterator[None]:
    """Around imports of what `scripts/setup.sh --dev` installs: ends the program with that advice where one is missing.

    Raises:
        SystemExit: A package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: the Python package {error.name} is not installed; run scripts/setup.sh --dev") \
            from error


def tells_errors(*errors: type[Exception], interrupted: str = "interrupted") -> Callable[[Command], Command]:
    """Decorates a command line, which then prints an error that is the user's to mend and returns 1.

    Args:
        errors: Those errors.
        interrupted: What a Ctrl-C prints; the status is then 130.
    """
    def decorate(main: Command) -> Command:
        @functools.wraps(main)
        def run(arguments: Sequence[str] | None = None) -> int:
            try:
                return main(arguments)
            except errors as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                print(interrupted, file=sys.stderr)
                return 130
        return run
    return decorate
