"""Which frames are recorded: the last ones are held until it is known what was said of them."""
from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ros_gpt4roi.configuration import ConfigError, Configuration, setting

TRIGGERS = ("changed", "low_confidence", "asked", "corrected")
_FRESH_S = 5.0  # so long each frame is held, since people may ask about any
_MOST_MOMENTS = 20_000  # held at once, where they are small


@dataclass(frozen=True)
class RecordingRules(Configuration):
    """What is recorded."""

    triggers: tuple[str, ...] = setting(
        TRIGGERS, "What has frames recorded: changed (a description, or which regions there are), low_confidence (of a "
        "description or an answer), asked, corrected; or always: all frames.", choices=("always", *TRIGGERS))
    min_confidence: float = setting(0.5, "Confidence below which it is low.", at_least=0, at_most=1)
    rate_hz: float = setting(2.0, "Frames a second that are recorded at most, and as many again of those that changed "
                             "or are of low confidence; those that people speak of are always recorded.", more_than=0,
                             at_most=1000, unit="Hz")
    before_s: float = setting(2.0, "Frames are recorded from so long before the frame that a trigger speaks of.",
                              at_least=0, at_most=3600, unit="seconds")
    after_s: float = setting(2.0, "Frames are recorded until so long after it.", at_least=0, at_most=3600,
                             unit="seconds")
    buffer_s: float = setting(60.0, "So long frames are held for triggers that come later, as corrections do.",
                              at_least=1, at_most=3600, unit="seconds")
    buffer_mib: int = setting(256, "Most that the held frames may take, as they arrived.", at_least=1, at_most=65536,
                              unit="MiB")
    slop_s: float = setting(0.0, "How far the stamps of frame and boxes may lie apart.", at_least=0, at_most=10,
                            unit="seconds")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buffer_s < self.before_s:
            raise ConfigError(f"buffer_s is {self.buffer_s:g}, expected at least before_s, {self.before_s:g}")


class Note(NamedTuple):
    """Something that is said of a frame.

    Attributes:
        message: What is to be written of it.
        size: Of it, in bytes.
        triggers: Those of TRIGGERS that it is.
        people: Whether people said it: then it is written, whatever becomes of its frame.
        boxes: The detections of the frame, where these are what it says.
    """

    message: Any
    size: int
    triggers: Collection[str] = ()
    people: bool = False
    boxes: Any = None


@dataclass(eq=False)
class Moment:
    """A stamp, with the frame and what is said of it, as far as either has come.

    Attributes:
        stamp: Nanoseconds.
        arrived_s: When the first of it came, on the steady clock.
        frame: The image, until it is taken.
        boxes: Its detections, of each message that has some of them: there may be a detector of its own for faces.
    """

    stamp: int
    arrived_s: float
    frame: Any = None
    boxes: tuple[Any, ...] = ()
    notes: list[Note] = field(default_factory=list)
    size: int = 0
    on_grid: bool = False  # of the frames that rate_hz leaves
    described: bool = False
    wanted: bool = False  # a trigger speaks of it
    taken: bool = False


class Moments:
    """Holds the last frames within a number of seconds and bytes, and gives those that the rules choose.

    Args:
        rules: Choose them.
        needs_boxes: Whether a frame is given only once its detections are there.
    """

    def __init__(self, rules: RecordingRules, needs_boxes: bool) -> None:
        self._rules, self._needs_boxes = rules, needs_boxes
        self._held: OrderedDict[int, Moment] = OrderedDict()
        self._windows: list[tuple[float, float]] = []
        self._grid_ns = self._wanted_ns = -1  # the last stamps that rate_hz left
        self._bytes = 0
        self.counts: Counter[str] = Counter()

    @property
    def held_bytes(self) -> int:
        """What is held."""
        return self._bytes

    def add_frame(self, stamp: int, now_s: float, frame: Any, size: int) -> None:
        """Takes a frame.

        Args:
            stamp: Of its header, nanoseconds.
            now_s: The steady clock's time.
            frame: The frame; given back by `take`.
            size: Bytes that it holds.
        """
        moment = self._held.get(stamp) or self._near(stamp, lambda near: near.frame is None and near.boxes)
        if moment is None or moment.stamp != stamp:
            boxes, moment = moment, self._new(stamp, now_s)
            if boxes is not None:  # they came before it, under a stamp of their own
                moment.boxes, moment.wanted = boxes.boxes, boxes.wanted
                moment.notes, moment.size = boxes.notes, boxes.size
                del self._held[boxes.stamp]
        if moment.frame is not None or moment.taken:
            self.counts["frames of a stamp that had one"] += 1
            return
        moment.on_grid = self._due(stamp, self._grid_ns)
        if moment.on_grid:
            self._grid_ns = stamp
        if moment.wanted:
            self._open(now_s)
        moment.frame, moment.size, moment.arrived_s = frame, moment.size + size, now_s
        self._held.move_to_end(stamp)
        self._bytes += size
        self._evict()

    def add_note(self, stamp: int, now_s: float, note: Note) -> list[Any]:
        """Takes something that is said of a frame, which may have come before or comes later.

        Args:
            stamp: Of the frame, nanoseconds; 0 where it is not said.
            now_s: The steady clock's time.
            note: What is said.

        Returns:
            What is to be written of it now.
        """
        moment = self._held.get(stamp)
        if note.boxes is not None and (moment is None or moment.frame is None):
            moment = self._near(stamp, lambda near: near.frame is not None and not near.boxes) or moment
        triggers = set(note.triggers).intersection(self._rules.triggers)
        self.counts.update(triggers)
        if triggers and moment is not None and (moment.frame is not None or moment.taken):
            self._open(moment.arrived_s)
        elif triggers and not (note.people and stamp):  # else people may speak of a frame that is long gone
            self._open(now_s)
        if note.people:
            if stamp and triggers:  # messages of different topics overtake each other: the frame may be still to come
                (moment or self._new(stamp, now_s)).wanted = True
            return [note.message]
        moment = moment or self._new(stamp, now_s)
        if note.boxes is not None:
            moment.boxes += () if moment.taken else (note.boxes,)
        else:
            moment.described = True
        if triggers and self._due(stamp, self._wanted_ns):
            moment.wanted, self._wanted_ns = True, stamp
        if moment.taken:
            return [note.message]
        moment.notes.append(note)
        moment.size += note.size
        self._bytes += note.size
        self._evict()
        return []

    def take(self, now_s: float) -> Iterator[tuple[Any, tuple[Any, ...], list[Any]]]:
        """Gives the frames that are to be recorded by now, each once.

        Args:
            now_s: The steady clock's time.

        Yields:
            A frame, its detections, of each message that had some, and the messages that were said of it.
        """
        rules, always = self._rules, "always" in self._rules.triggers
        for moment in list(self._held.values()):
            age_s = now_s - moment.arrived_s
            if moment.frame is not None:
                chosen = moment.wanted or moment.on_grid and (always or self._in_window(moment.arrived_s))
                if chosen and (moment.boxes or not self._needs_boxes):
                    frame, boxes, messages = moment.frame, moment.boxes, [note.message for note in moment.notes]
                    self._bytes -= moment.size
                    moment.frame, moment.boxes, moment.notes, moment.size, moment.taken = None, (), [], 0, True
                    self.counts["frames"] += 1
                    yield frame, boxes, messages
                elif age_s > _FRESH_S and not (moment.on_grid or moment.wanted or moment.described):
                    self._drop(moment)
            if age_s > rules.buffer_s:
                self._drop(moment)
        first_s = next(iter(self._held.values())).arrived_s if self._held else now_s
        self._windows = [window for window in self._windows if window[1] >= min(first_s, now_s)]

    def _new(self, stamp: int, now_s: float) -> Moment:
        moment = self._held[stamp] = Moment(stamp, now_s)
        return moment

    def _due(self, stamp: int, last_ns: int) -> bool:
        """Whether rate_hz leaves a frame after the last one that it left; a clock that was set back begins anew."""
        return last_ns < 0 or stamp < last_ns or stamp - last_ns >= 0.999e9 / self._rules.rate_hz

    def _near(self, stamp: int, suits: Any) -> Moment | None:
        """The moment that is nearest to a stamp, within the slop, of those that suit."""
        slop = int(self._rules.slop_s * 1e9)
        if not slop:
            return None
        near = [moment for moment in self._held.values() if abs(moment.stamp - stamp) <= slop and suits(moment)]
        return min(near, key=lambda moment: abs(moment.stamp - stamp), default=None)

    def _open(self, around_s: float) -> None:
        """Opens a window; one that overlaps the last becomes one with it, so that there are few."""
        begin_s, end_s = around_s - self._rules.before_s, around_s + self._rules.after_s
        if self._windows and self._windows[-1][0] <= end_s and begin_s <= self._windows[-1][1]:
            last = self._windows.pop()
            begin_s, end_s = min(begin_s, last[0]), max(end_s, last[1])
        self._windows.append((begin_s, end_s))

    def _in_window(self, time_s: float) -> bool:
        return any(begin_s <= time_s <= end_s for begin_s, end_s in self._windows)

    def _evict(self) -> None:
        """Lets the oldest go until the rest fits."""
        while self._held and (self._bytes > self._rules.buffer_mib * 2**20 or len(self._held) > _MOST_MOMENTS):
            self._drop(next(iter(self._held.values())))

    def _drop(self, moment: Moment) -> None:
        if self._held.pop(moment.stamp, None) is None:
            return
        self._bytes -= moment.size
        if moment.wanted and not moment.taken:
            self.counts["frames that were spoken of and not held" if moment.frame is None
                        else "frames without the detections that are to be blacked out" if not moment.boxes
                        and self._needs_boxes else "frames that the buffer had no room for"] += 1
