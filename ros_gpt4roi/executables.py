"""What `ros2 run ros_gpt4roi NAME` starts: signals are handled first, then come the imports, which take seconds."""

from __future__ import annotations

import importlib
import os
import signal

_INTERRUPTED = 128 + signal.SIGINT  # as shells have it


def perception() -> int:
    """Run the perception node. Returns the exit status."""
    return _run_node("ros_gpt4roi.nodes.perception")


def sim_camera() -> int:
    """Run the simulated camera's node. Returns the exit status."""
    return _run_node("ros_gpt4roi.nodes.sim_camera")


def speech() -> int:
    """Run the speech node. Returns the exit status."""
    return _run_node("ros_gpt4roi.nodes.speech")


def build_engine() -> int:
    """Run the tool that builds engines ahead of time. Returns the exit status."""
    return _run_tool("ros_gpt4roi.engine.build_engine")


def describe() -> int:
    """Run the tool that describes a picture file. Returns the exit status."""
    return _run_tool("ros_gpt4roi.describe")


def ask() -> int:
    """Run the command that asks the perception node a question. Returns the exit status."""
    return _run_tool("ros_gpt4roi.console.ask")


def console() -> int:
    """Run the terminal console. Returns the exit status."""
    return _run_tool("ros_gpt4roi.console.terminal")


def web_console() -> int:
    """Run the web console. Returns the exit status."""
    return _run_node("ros_gpt4roi.console.web")


def _run_node(module: str) -> int:
    _exit_on_signals(0)  # as later, when the node has handlers of its own: it was told to end, and did
    return int(importlib.import_module(module).main())


def _run_tool(module: str) -> int:
    _exit_on_signals(_INTERRUPTED)
    main = importlib.import_module(module).main
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        return int(main())
    except KeyboardInterrupt:
        return _INTERRUPTED


def _exit_on_signals(status: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # No exception: raised in the middle of an import, it could be caught there or end in a traceback.
        signal.signal(number, lambda *_: os._exit(status))
