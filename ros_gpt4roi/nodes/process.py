"""What every node's process does around its node: transport, start, spin, an orderly end."""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node


def use_large_messages() -> None:
    """Gives Fast DDS shared memory that holds images, unless the environment already names a profile.

    Call it before rclpy.init. Without it, a best-effort image over 0.5 MiB is mostly lost between processes.
    """
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(Path(__file__).with_name("fastdds.xml")))


def run_node(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Spins a node until SIGINT, SIGTERM or the context's shutdown; returns the process's exit status.

    The node's `close()`, where it has one, runs before the node is destroyed. An error that ends the node is logged and
    gives status 1.
    """
    use_large_messages()
    rclpy.init(args=args)
    node = None
    try:
        # One thread: callbacks only hand over, and several threads were slower (p95 114 ms a frame).
        executor = SingleThreadedExecutor()
        node = make_node()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception as error:
        get_logger(node.get_name() if node is not None else "start").fatal(f"{type(error).__name__}: {error}")
        return 1
    finally:
        if node is not None:
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
