"""What `ros2 run ros_gpt4roi NAME` starts: signals are handled first, then come the imports, which take seconds."""

from __future__ import annotations

import importlib
import os
import signal
from functools import partial

_INTERRUPTED = 128 + signal.SIGINT  # as shells have it


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


perception = partial(_run_node, "ros_gpt4roi.nodes.perception")
sim_camera = partial(_run_node, "ros_gpt4roi.nodes.sim_camera")
speech = partial(_run_node, "ros_gpt4roi.nodes.speech")
recorder = partial(_run_node, "ros_gpt4roi.nodes.recorder")
web_console = partial(_run_node, "ros_gpt4roi.console.web")
ask = partial(_run_tool, "ros_gpt4roi.console.ask")
build_engine = partial(_run_tool, "ros_gpt4roi.engine.build_engine")
console = partial(_run_tool, "ros_gpt4roi.console.terminal")
describe = partial(_run_tool, "ros_gpt4roi.describe")
simulated_world = partial(_run_tool, "ros_gpt4roi.simulated_world")
