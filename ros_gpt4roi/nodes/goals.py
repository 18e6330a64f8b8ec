"""What goals and requests that wait for the worker have in common: a server, awaiting, a result before the end."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import QoSProfile

from .diagnostics import Problems
from .process import shown

_RESULT_KEPT_S = 60  # for a client that asks for its result late; a goal's memory is freed after it
# The middleware drops what a history (10 by default) doesn't hold, and nobody would ever know.
HISTORY = QoSProfile(depth=200)  # of answers, and of each service
_DRAIN_POLL_S = 0.05
_LINGER_S = 0.5  # after the last result: for clients that ask for theirs just now, and for the middleware to send it

Result = TypeVar("Result")


class OpenRequests:
    """The goals and requests without a result.

    Args:
        node: The node that has them.
        problems: Receives those that never got one.
    """

    def __init__(self, node: LifecycleNode, problems: Problems) -> None:
        self._node, self._problems = node, problems
        self._count = 0
        self._last_result_s = -math.inf

    def begin(self) -> None:
        """There is one more."""
        self._count += 1

    def end(self) -> None:
        """One has its result."""
        self._count -= 1
        self._last_result_s = time.monotonic()

    @contextmanager
    def one(self) -> Iterator[None]:
        """One that is open while this is entered."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def drain(self, limit_s: float) -> None:
        """Spins the node's executor until all have their results; what would give them more work has stopped.

        It may be called from a callback: what is in that callback's group waits, these interfaces do not.
        """
        executor, end = self._node.executor, time.monotonic() + limit_s
        while (executor is not None and (now := time.monotonic()) < end
               and (self._count or now - self._last_result_s < _LINGER_S)):
            try:
                # From 7.1.9 on, rclpy refuses `spin_once` within a callback, but not what that calls.
                getattr(executor, "_spin_once_impl", executor.spin_once)(_DRAIN_POLL_S)
            except Exception as error:  # of whatever callback: it must not keep the others from their results
                self._problems.report("callback failed", shown(error))
                time.sleep(_DRAIN_POLL_S)  # where it is the executor's own, the next comes at once
        if self._count:
            self._problems.report("request without a result", f"{self._count} at the end, after {limit_s:.0f} s")


async def finished(future: futures.Future[Result], executor: Executor | None) -> Result:
    """Awaits the worker's future in a coroutine of the executor."""
    if executor is None:
        raise RuntimeError("the node was taken from its executor in the middle of a request")
    bridge = rclpy.task.Future(executor=executor)
    # Runs on the worker's thread: only the executor's own thread may resume the coroutine.
    future.add_done_callback(lambda done: executor.create_task(bridge.set_result, done.result()))
    return cast(Result, await bridge)


class _OnSystemTime:
    """A node whose clock is the machine's: action servers keep results, and stamp goals, by their node's clock.

    With use_sim_time, ROS time may stand still, so that results are kept for ever, or jump, so that they go at once. A
    steady clock would do neither, but goals are stamped by the same clock, and its stamps mean nothing to a client.
    """

    def __init__(self, node: Node) -> None:
        self._node, self._clock = node, Clock(clock_type=ClockType.SYSTEM_TIME)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def get_clock(self) -> Clock:
        return self._clock


def serve_action(node: LifecycleNode, kind: type, name: str, group: CallbackGroup,
                 execute: Callable[[ServerGoalHandle], Any], on_cancel: Callable[[ServerGoalHandle], None], *,
                 on_request: Callable[[], None] = lambda: None,
                 on_accepted: Callable[[], None] = lambda: None) -> ActionServer:
    """An action server that accepts every goal and every wish to cancel one.

    Args:
        node: Has it.
        kind: The action's type.
        name: The action's name.
        group: Reentrant, since a coroutine holds its group while it awaits.
        execute: A coroutine that gives a goal's result.
        on_cancel: Called with a goal that is to end.
        on_request: Called with every goal that comes.
        on_accepted: Called before a goal is executed; not where its acceptance could not be sent: rclpy leaves such a
            goal alone.
    """
    def accept(request: Any) -> GoalResponse:
        on_request()
        return GoalResponse.ACCEPT

    def begin(goal: ServerGoalHandle) -> None:
        on_accepted()
        goal.execute()

    def cancel(goal: ServerGoalHandle) -> CancelResponse:
        on_cancel(goal)
        return CancelResponse.ACCEPT

    return ActionServer(_OnSystemTime(node), kind, name, execute, callback_group=group, goal_callback=accept,
                        handle_accepted_callback=begin, cancel_callback=cancel, result_timeout=_RESULT_KEPT_S,
                        goal_service_qos_profile=HISTORY, result_service_qos_profile=HISTORY,
                        cancel_service_qos_profile=HISTORY)


def goal_name(goal: ServerGoalHandle) -> str:
    """The runtime's name for a goal's question; the asker's own id need not be unique."""
    return bytes(goal.goal_id.uuid).hex()
