"""What every node's process does around its node: transport, start, spin, an orderly end."""
from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from .shared_memory import remove_abandoned_segments

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SIGNAL_POLL_S = 0.2  # Python sees a signal only between two waits of the middleware


def use_large_messages() -> None:
    """Gives Fast DDS shared memory that holds images, unless the environment already names a profile.

    Call it before rclpy.init. Without it, a best-effort image over 0.5 MiB is mostly lost between processes.
    """
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(Path(__file__).with_name("fastdds.xml")))


def run_node(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Spins a node until SIGINT or SIGTERM; returns the process's exit status.

    The node's `close()`, where it has one, runs before the node is destroyed. An error that ends the node is logged and
    gives status 1. Call it in the main thread.
    """
    use_large_messages()
    remove_abandoned_segments()
    try:
        # rclpy's own handlers would shut the context down at once, under the threads that still publish.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rcl's: arguments or a parameter file that it can't read
        get_logger("start").fatal(str(error))
        return 1
    ending, spinning = threading.Event(), threading.Event()

    def interrupt(number: int, frame: object) -> None:
        first = not ending.is_set()
        ending.set()
        if first and not spinning.is_set():  # a callback ends by itself, and rclpy's C++ suffers no exception
            raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, interrupt)
    node = None
    try:
        # One thread: callbacks only hand over, and several threads were slower (p95 114 ms a frame).
        executor = SingleThreadedExecutor()
        node = make_node()
        executor.add_node(node)
        spinning.set()
        while not ending.is_set():
            executor.spin_once(_SIGNAL_POLL_S)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        get_logger(node.get_name() if node is not None else "start").fatal(f"{type(error).__name__}: {error}")
        return 1
    finally:
        if node is not None:
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        rclpy.try_shutdown()
        gc.freeze()  # collecting what a model consists of, at the interpreter's end, takes seconds
    return 0
