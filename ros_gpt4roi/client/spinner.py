"""Where a client's node is spun, and how other threads wait for what it receives."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from ..transport import use_large_messages
from .connection import ClientError, Connection

_POLL_S = 0.1
_START_S, _STOP_S = 60.0, 10.0


class Spinner:
    """Spins a client's node: one of its own always, the caller's while somebody waits and it is in no executor.

    Args:
        node: The caller's node. None: one of the client's own, in a ROS context and a thread of its own.
        name: Of the client's own node.
        namespace: Where the perception node's topics are; empty: in the client node's.
        check: Called ten times a second by a thread that waits; what it raises ends the wait.

    Attributes:
        node: The node.
        connection: To the perception node.
    """

    node: Node
    connection: Connection

    def __init__(self, node: Node | None, name: str, namespace: str, check: Callable[[], None]) -> None:
        self._namespace, self._check = namespace, check
        self._progress = threading.Condition()  # notified when something was handled
        self._ending = threading.Event()
        self._spin_on: Callable[[], bool] = lambda: False  # whether the own node is spun although it is ending
        self._spinning = threading.Lock()  # held while the next two change
        self._waiting = 0  # threads for which a node of the caller's is spun
        self._thread: threading.Thread | None = None
        self._owns_node = node is None
        if node is not None:
            self._connect(node)
            return
        started: futures.Future[None] = futures.Future()
        self._thread = threading.Thread(target=self._run_own_node, args=(name, started), daemon=True,
                                        name="gpt4roi-client")
        self._thread.start()
        try:
            self._poll(started.done, _START_S, "start of the client's node")
            started.result()
        except BaseException:
            self._ending.set()
            raise
        atexit.register(self.close)  # before the interpreter stops the thread wherever it is

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._ending.is_set()

    def close(self, finished: Callable[[], bool] = lambda: True, limit_s: float = 0) -> None:
        """Ends the connection, and the client's own node. A second call does nothing.

        Args:
            finished: The node is spun until this holds, but by a caller that is in a callback itself.
            limit_s: Most seconds until then.
        """
        if self.closed:
            return
        end = time.monotonic() + limit_s
        self._spin_on = lambda: not finished() and time.monotonic() < end
        self._ending.set()
        if self._owns_node:
            self._end_thread()
            atexit.unregister(self.close)
            return
        executor = self.node.executor
        is_spun = executor is not None and self.node in executor.get_nodes()
        if threading.current_thread() is not self._thread and not (is_spun and self.connection.spun_here()):
            with suppress(ClientError):
                self.wait_for(finished, limit_s, "the end of what is open")
        self.connection.destroy()

    def notify(self, _: object = None) -> None:
        """Has the conditions that are waited for looked at."""
        with self._progress:
            self._progress.notify_all()

    def wait_for(self, condition: Callable[[], object], limit_s: float, what: str) -> None:
        """See `Client.wait_for`."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"{what} can not be waited for in a callback; use ask_async or describe_async there")
        with self._spun():
            self._poll(condition, limit_s, what)

    def _poll(self, condition: Callable[[], object], limit_s: float, what: str) -> None:
        end = time.monotonic() + limit_s
        with self._progress:
            while not condition():
                self._check()
                if (left := end - time.monotonic()) <= 0:
                    raise ClientError(f"{what}: not within {limit_s:g} s")
                self._progress.wait(min(left, _POLL_S))

    @contextmanager
    def _spun(self) -> Iterator[None]:
        """Spins a node of the caller's that is in no executor, as long as somebody waits."""
        if self._owns_node:
            yield
            return
        with self._spinning:
            executor = self.node.executor
            if self._waiting == 0 and (executor is None or self.node not in executor.get_nodes()):
                self._thread = threading.Thread(target=self._spin, args=(lambda: self._waiting == 0,), daemon=True)
            counted = self._thread is not None
            self._waiting += counted
            if self._thread is not None and not self._thread.is_alive():
                self._thread.start()
        try:
            yield
        finally:
            with self._spinning:
                self._waiting -= counted
                if counted and self._waiting == 0:
                    self._end_thread()

    def _end_thread(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self.connection.call(lambda: None)  # wakes the executor
            if thread is not threading.current_thread():  # a callback closes the client: it ends behind that
                thread.join(_STOP_S)

    def _connect(self, node: Node) -> None:
        self.node, self.connection = node, Connection(node, self._namespace)
        self.connection.state_listeners.append(self.notify)

    def _run_own_node(self, name: str, started: futures.Future[None]) -> None:
        use_large_messages()
        context = Context()
        try:
            rclpy.init(context=context)  # no signal handlers: those of a context that isn't the default one's
            self._connect(rclpy.create_node(name, context=context, enable_rosout=False,
                                            start_parameter_services=False))
        except Exception as error:
            started.set_exception(error)
            context.try_shutdown()
            return
        started.set_result(None)
        self.notify()
        self._spin(lambda: self._ending.is_set() and not self._spin_on())
        self.connection.destroy()
        self.node.destroy_node()
        context.try_shutdown()

    def _spin(self, ended: Callable[[], bool]) -> None:
        executor = SingleThreadedExecutor(context=self.node.context)
        executor.add_node(self.node)
        while not ended() and self.node.context.ok():
            try:
                executor.spin_once(_POLL_S)
            except Exception as error:  # a callback's own: it costs what called it, not the others
                self.node.get_logger().error(f"{type(error).__name__} in a callback: {error}")
            self.notify()
        self.node.executor = None  # type: ignore[assignment]  # rclpy's way to say that it is in none
        executor.shutdown()
