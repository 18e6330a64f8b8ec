"""What goes wrong is counted, logged at a bearable rate and shown in /diagnostics."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

_LONGEST_TEXT = 400  # characters of a problem that are kept: what is refused may be of any length


class Problems:
    """Counts problems by kind and logs each kind at most once in `period_s` seconds, with how many were passed over.

    Thread-safe: the executor's thread and the scheduler's worker both report.
    """

    def __init__(self, log: Callable[[str], None], period_s: float = 5.0) -> None:
        self._log = log
        self._period_s = period_s
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._last: dict[str, str] = {}
        self._logged: dict[str, tuple[float, int]] = {}  # kind → when, and the count then
        self._noted: set[str] = set()

    def report(self, kind: str, text: str) -> None:
        """Counts one problem; `text` names the offending value."""
        text = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."
        with self._lock:
            count = self._counts[kind] = self._counts.get(kind, 0) + 1
            self._last[kind] = text
            logged_at, logged_count = self._logged.get(kind, (-float("inf"), 0))
            now = time.monotonic()
            if now - logged_at < self._period_s:
                return
            self._logged[kind] = (now, count)
        passed_over = count - logged_count - 1
        self._log(f"{kind}: {text}" + (f" (and {passed_over} more before)" if passed_over else ""))

    def note(self, kind: str, text: str) -> None:
        """Counts what is odd but served: logged the first time alone, and no problem."""
        text = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."
        with self._lock:
            first = kind not in self._noted
            self._noted.add(kind)
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._last[kind] = text
        if first:
            self._log(f"{kind}: {text}")

    def total(self) -> int:
        """Problems of all kinds since the start."""
        with self._lock:
            return sum(count for kind, count in self._counts.items() if kind not in self._noted)

    def values(self) -> dict[str, str]:
        """For diagnostics: the count of each kind and the last text of it."""
        with self._lock:
            result = {}
            for kind, count in self._counts.items():
                result[kind] = str(count)
                result[f"{kind}, last"] = self._last[kind]
            return result


def diagnostic_array(header: Header, name: str, level: bytes, message: str, hardware_id: str,
                     values: Mapping[str, object]) -> DiagnosticArray:
    """One component's diagnostics; level is one of DiagnosticStatus's constants."""
    pairs = [KeyValue(key=key, value=f"{value:.6g}" if isinstance(value, float) else str(value))
             for key, value in values.items()]
    status = DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware_id, values=pairs)
    return DiagnosticArray(header=header, status=[status])
