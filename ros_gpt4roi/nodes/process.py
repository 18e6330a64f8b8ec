"""What every node's process does around its node: transport, start, spin, an orderly end."""
from __future__ import annotations

import gc
import inspect
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.service import Service
from rclpy.signals import SignalHandlerOptions

from ros_gpt4roi.interrupts import ending_signals
from ros_gpt4roi.printable import PrintableHandler, printable
from ros_gpt4roi.transport import use_large_messages

from .diagnostics import Problems
from .shared_memory import remove_abandoned_segments

_SIGNAL_POLL_S = 0.2  # Python sees a signal only between two waits of the middleware
_BROKEN_S = 10.0  # an executor in which nothing succeeds for so long has no way on
# From the signal on. `ros2 launch` sends SIGTERM after 5 s, which tells nothing new, and SIGKILL after 10.
_BEGIN_LIMIT_S = 4.0  # until the main thread has come back from what it is at, such as loading a model
_END_LIMIT_S = 9.0


AnyNode = TypeVar("AnyNode", bound=Node)


class NodeFailure(Exception):
    """Raised by a callback to end the node; the text says why. Any other exception costs its callback alone."""


def run_node(make_node: Callable[[], AnyNode], args: Sequence[str] | None = None,
             start: Callable[[AnyNode], None] = lambda node: None) -> NoReturn:
    """Spins a node until a signal tells it to end, and ends the process.

    A callback that raises is logged, and counted among the node's `problems`, where it has them; a service then
    responds with its response type's defaults, which say that nothing was done. `NodeFailure`, and errors of
    `make_node` and `start`, end the process with status 1. The node's `close()`, where it has one, runs before the node
    is destroyed; it should take less than four seconds. Call it in the main thread. A thread that still works at the
    end, such as one that loads a model, ends with the process, at once.

    Args:
        make_node: Makes the node.
        args: ROS arguments; None: the command line's.
        start: What is done with the node before it is spun and that takes long. A signal breaks it off.
    """
    signals = socket.socketpair()  # here: a signal's handler writes to it up to the process's end
    status = _run(make_node, args, start, *signals)
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter's own end would wait for threads, take seconds for what a model consists of, and unwind threads
    # within PyTorch's C++, which aborts the process.
    os._exit(status)


def _run(make_node: Callable[[], AnyNode], args: Sequence[str] | None, start: Callable[[AnyNode], None],
         signals: socket.socket, written: socket.socket) -> int:
    gc.freeze()  # what is imported stays: a collection, which holds up all threads, need not look through it each time
    use_large_messages()
    remove_abandoned_segments()
    # The log repeats parts of what people asked. Only its file is private: other users' processes share the memory
    # through which images go.
    mask = os.umask(0o077)
    try:
        # rclpy's own handlers would shut the context down at once, under the threads that still publish.
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rcl's: arguments or a parameter file that it can't read
        get_logger("start").fatal(printable(str(error), 2000))
        return 1
    finally:
        os.umask(mask)
    own = logging.getLogger("ros_gpt4roi")
    own.setLevel(logging.INFO)
    own.addHandler(PrintableHandler(_log))
    ending, spinning, closing = threading.Event(), threading.Event(), threading.Event()

    def interrupt(number: int, frame: object) -> None:
        first = not ending.is_set()
        ending.set()
        if first and not spinning.is_set():  # a callback ends by itself, and rclpy's C++ suffers no exception
            raise KeyboardInterrupt

    written.setblocking(False)
    signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_limit_end, args=(signals, closing), name="end", daemon=True).start()
    node = None
    try:
        for number in ending_signals():
            signal.signal(number, interrupt)
        # One thread: callbacks only hand over, and several threads were slower (p95 114 ms a frame).
        executor = SingleThreadedExecutor()
        node = make_node()
        start(node)
        executor.add_node(node)
        problems = getattr(node, "problems", None) or Problems(node.get_logger().error)
        for service in node.services:
            _guard(service, problems)
        spinning.set()
        _spin(executor, ending, problems)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        if ending.is_set() and not spinning.is_set():  # a KeyboardInterrupt within rclpy's C++ comes out as another
            return 0
        logger = get_logger(node.get_name() if node is not None else "start")
        logger.fatal(printable(f"{type(error).__name__}: {error}", 2000))
        return 1
    finally:
        closing.set()
        if node is not None:
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        else:
            gc.collect()  # half a node would stay in the graph until others miss it
        rclpy.try_shutdown()
    return 0


def _limit_end(signals: socket.socket, closing: threading.Event) -> None:
    """Ends the process some seconds after a signal where it has not ended by itself.

    The main thread may be within a library that lets no handler run, or takes the KeyboardInterrupt for its own.
    """
    while signals.recv(1)[0] not in ending_signals():
        pass
    end = time.monotonic() + _END_LIMIT_S
    if not closing.wait(_BEGIN_LIMIT_S):
        get_logger("end").warning(f"{_BEGIN_LIMIT_S:g} s after the signal the main thread is still at work, such as "
                                  "loading a model; it is given up")
        os._exit(0)  # it was told to end, and does; there are no answers before it has loaded a model
    time.sleep(max(0.0, end - time.monotonic()))
    get_logger("end").error(f"the node's end takes more than {_END_LIMIT_S:g} s; it is given up")
    os._exit(1)


def _log(level: int, text: str) -> None:
    """Writes a record of the package's own, of the parts that know no ROS, to the ROS log."""
    logger = get_logger("ros_gpt4roi")
    if level >= logging.ERROR:
        logger.error(text)
    elif level >= logging.WARNING:
        logger.warning(text)
    else:
        logger.info(text)


def _spin(executor: SingleThreadedExecutor, ending: threading.Event, problems: Problems) -> None:
    succeeded_s = time.monotonic()
    while not ending.is_set():
        try:
            executor.spin_once(_SIGNAL_POLL_S)
            succeeded_s = time.monotonic()
        except NodeFailure:
            raise
        except Exception as error:  # of whatever callback: a subscription's, a timer's, an action's
            problems.report("callback failed", shown(error))
            if time.monotonic() - succeeded_s > _BROKEN_S:
                raise


def _guard(service: Service, problems: Problems) -> None:
    """Lets a service respond even where its callback raises, as rclpy's own do: its client would wait for ever."""
    callback: Callable[[Any, Any], Any] = service.callback

    async def guarded(request: Any, response: Any) -> Any:
        try:
            if isinstance(request, ChangeState.Request):  # rcl logs a label that it does not know, as it came
                request.transition.label = printable(request.transition.label)
            result = callback(request, response)
            return await result if inspect.isawaitable(result) else result
        except Exception as error:
            problems.report(f"service {service.service_name} failed", shown(error))
            return cast(Any, service.srv_type).Response()

    service.callback = cast(Any, guarded)


def shown(error: Exception) -> str:
    """An error with the place that raised it."""
    places = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {error}{place}"
