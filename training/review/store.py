"""The state of a review, beside the records: who has done what, in an SQLite file that is written at every change.

The records themselves are changed by `export` alone. Whoever changes their file meanwhile loses nothing, and neither do
reviewers: a review of a record that is not as it was is kept and shown again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.data.record import RecordError
from training.data.record_file import FILE, PictureRecord, parse_record, read_lines, record_line
from training.data.report import Report
from training.review.edits import Edits, accepted
from training.review.pictures import check_picture

STATE = "review.sqlite3"
LEASE_S = 60.0
_MOST_LEASES = 4  # of one reviewer: what is looked at, the next, and what is saved last
_MOST_PROBLEMS = 20  # that are named
_TABLE = """
CREATE TABLE IF NOT EXISTS records (
  id INTEGER PRIMARY KEY,
  file TEXT NOT NULL, occurrence INTEGER NOT NULL,  -- a file may have several records of a picture
  digest TEXT NOT NULL, record TEXT NOT NULL,       -- as it is in the file, without its reasons for a review
  reasons TEXT NOT NULL, problems TEXT NOT NULL,
  rank INTEGER NOT NULL,                            -- smaller comes first
  scan INTEGER NOT NULL,                            -- the last in which it was in the file
  version INTEGER NOT NULL DEFAULT 0,
  edits TEXT, verdict TEXT NOT NULL DEFAULT '', who TEXT NOT NULL DEFAULT '', time REAL NOT NULL DEFAULT 0,
  lost TEXT,                                        -- a review of what it was before the file was changed
  UNIQUE (file, occurrence));
CREATE INDEX IF NOT EXISTS queue ON records (verdict, rank);
"""


class ReviewError(ValueError):
    """A request that cannot be carried out; the message says why."""


@dataclass(frozen=True)
class Item:
    """A record in its review.

    Attributes:
        id: Of the record here.
        record: As it is in the file.
        reasons: Why somebody should look at it.
        problems: What of it cannot be read, and is lost where the record is written anew.
        rank: Its place in the order of the review.
        version: Counts its changes.
        edits: What people have made of it; None where nobody has changed anything.
        verdict: "", "accepted" or "rejected".
        who: Whose the last change is.
        lost: A review of what the record was before its file was changed.
        holder: The name of another reviewer who has it at the moment.
    """

    id: int
    record: PictureRecord
    reasons: list[str]
    problems: list[str]
    rank: int
    version: int
    edits: Edits | None
    verdict: str
    who: str
    lost: Edits | None
    holder: str = ""


class ConflictError(ReviewError):
    """Somebody else has changed the record, or has it at the moment.

    Attributes:
        item: The record as it is now.
    """

    def __init__(self, message: str, item: Item):
        super().__init__(message)
        self.item = item


class Store:
    """The review of one folder. Any thread may call; each change is on the disk when a method returns.

    Args:
        folder: With records.jsonl.

    Raises:
        RecordError: There are no records, or the state cannot be kept there.
    """

    def __init__(self, folder: Path):
        self.folder, self.problems = folder, list[str]()
        self.names: dict[str, int] = {}  # of regions, by how often they are there
        self._lock = threading.RLock()
        self._leases: dict[int, tuple[str, str, float]] = {}  # session, its reviewer's name, until when
        self._signature: tuple[int, ...] = ()
        path = folder / STATE
        if not (folder / FILE).is_file():
            raise RecordError(f"{folder / FILE} is not there; expected a folder of pictures with their records")
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._state = sqlite3.connect(path, check_same_thread=False, timeout=10, isolation_level=None)
            self._state.row_factory = sqlite3.Row
            self._state.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_TABLE}")
        except (OSError, sqlite3.Error) as error:
            raise RecordError(f"{path}: cannot be used: {error}") from error
        self._scan()

    def close(self) -> None:
        """Close the file of the state."""
        with self._lock:
            self._state.close()

    def counts(self) -> dict[str, int]:
        """Records by their verdict; those without one are "open"."""
        with self._lock:
            found = self._rows("SELECT verdict, COUNT(*) AS number FROM records WHERE scan=? GROUP BY verdict",
                               self._number)
            return {"open": 0, "accepted": 0, "rejected": 0} | {row["verdict"] or "open": row["number"]
                                                                for row in found}

    def open(self, session: str, who: str, wanted: int | None, after: int | None, but: list[int]) -> Item | None:
        """Give a record to a reviewer, who holds it for a minute after the last sign of life.

        Args:
            session: Names the reviewer's page.
            who: The person's name.
            wanted: A record; it is given also where somebody else holds it. None: the next one without a verdict.
            after: The rank behind which the next one is looked for, then from the start.
            but: Records that are not to come next.

        Returns:
            The record, or None where none is left that nobody else holds.

        Raises:
            ReviewError: There is no such record.
        """
        with self._lock:
            self._refresh()
            found = self._next(session, after, set(but)) if wanted is None else wanted
            if found is None:
                return None
            item = self._item(found)
            if holder := self._holder(found, session):
                return replace(item, holder=holder)
            self._lease(found, session, who)
            return item

    def item(self, record: int) -> Item:
        """A record as it is.

        Raises:
            ReviewError: There is no such record.
        """
        with self._lock:
            return self._item(record)

    def keep(self, session: str, held: list[int]) -> None:
        """A sign of life: the page still shows these records. All others that it had are free."""
        with self._lock:
            for record in [record for record, lease in self._leases.items() if lease[0] == session]:
                if record in held:
                    self._lease(record, session, self._leases[record][1])
                else:
                    del self._leases[record]

    def save(self, session: str, who: str, record: int, version: int, edits: Edits, verdict: str) -> int:
        """Keep what a person has made of a record.

        Args:
            session: Names the reviewer's page.
            who: The person's name.
            record: Which.
            version: Of the record that the person has changed.
            edits: What they made of it.
            verdict: "", "accepted" or "rejected".

        Returns:
            The record's new version.

        Raises:
            ConflictError: It was changed meanwhile, or somebody else holds it.
            ReviewError: There is no such record, or it cannot be accepted like this.
        """
        with self._lock:
            self._refresh()
            item = self._item(record)
            if holder := self._holder(record, session):
                raise ConflictError(f"{holder} has this record at the moment", replace(item, holder=holder))
            if item.version != version:
                by = f"by {item.who or 'somebody'}" if item.lost is None else "on disk"
                raise ConflictError(f"this record was changed {by} meanwhile", item)
            now = time.time()
            if verdict == "accepted":
                try:
                    check_picture(self.folder, item.record)  # nobody has seen what cannot be shown
                    accepted(item.record, edits, who, now)
                except ValueError as error:
                    raise ReviewError(str(error)) from error
            changed = self._state.execute(
                "UPDATE records SET edits=?, verdict=?, who=?, time=?, version=version+1, lost=NULL "
                "WHERE id=? AND version=?", (edits.model_dump_json(), verdict, who, now, record, version)).rowcount
            if not changed:  # by another server of this folder
                raise ConflictError("this record was changed by somebody meanwhile", self._item(record))
            if verdict == "accepted":
                for region in edits.regions:
                    self.names.setdefault(region.name, 1)
            self._lease(record, session, who)
            return version + 1

    def export(self) -> dict[str, int]:
        """Write what was accepted and rejected into records.jsonl; the file before stays as records.N.jsonl.

        Returns:
            What was done → to how many records.

        Raises:
            RecordError: The file cannot be read or written, or was changed meanwhile.
        """
        with self._lock:
            self._scan()
            path, unfinished = self.folder / FILE, self.folder / f"{FILE}.unfinished"
            signature, done, written = self._signature, Counter[str](), list[tuple[int, PictureRecord | None]]()
            with unfinished.open("wb") as file:
                shutil.copymode(path, unfinished)
                seen = Counter[str]()
                for line, record in read_lines(path, Report(sys.maxsize)):
                    if line is None:
                        raise RecordError(f"{path} has a line that is too long, which would be lost; nothing written")
                    row = None
                    if record is not None:
                        row = self._row("file=? AND occurrence=?", record.file, seen[record.file])
                        seen[record.file] += 1
                    if row is None or row["edits"] is None or not row["verdict"]:
                        done["as they were"] += 1
                        file.write(line if line.endswith(b"\n") else line + b"\n")
                        continue
                    done[row["verdict"]] += 1
                    result = _reviewed(row) if row["verdict"] == "accepted" else None
                    written.append((row["id"], result))
                    if result is not None:
                        file.write(record_line(result).encode())
            if not written or _signature(path) != signature:
                unfinished.unlink()
                if written:
                    raise RecordError(f"{path} was changed while it was read; nothing written")
                return dict(done)
            number = 1
            while (before := self.folder / f"records.{number}.jsonl").exists():
                number += 1
            os.link(path, before)
            os.replace(unfinished, path)
            with self._state:
                self._state.execute("BEGIN IMMEDIATE")
                for place, result in written:
                    self._settle(place, result)
            self._scan()
            return dict(done)

    def _settle(self, place: int, result: PictureRecord | None) -> None:
        """The file holds the result of a review, which is over."""
        if result is not None:
            text, digest = _digest(result)
            self._state.execute("UPDATE records SET edits=NULL, record=?, digest=?, version=version+1 WHERE id=?",
                                (text, digest, place))

    def _scan(self) -> None:
        """Brings the state up to the file."""
        path = self.folder / FILE
        self._signature = _signature(path)
        self._number = int.from_bytes(os.urandom(7), "big")
        report, seen, names = Report(sys.maxsize), Counter[str](), Counter[str]()
        with self._state:
            self._state.execute("BEGIN IMMEDIATE")
            self.problems = []
            for place, (_, record) in enumerate(read_lines(path, report)):
                if record is None:
                    self.problems += report.errors[:max(0, _MOST_PROBLEMS - len(self.problems))]
                else:
                    self._take(record, seen[record.file], place, report.errors)
                    seen[record.file] += 1
                    names.update(region.name for region in record.regions if region.name)
                report.errors = []  # of the next record
        self.names = dict(names.most_common(5000))

    def _take(self, record: PictureRecord, occurrence: int, place: int, problems: list[str]) -> None:
        text, digest = _digest(record)
        row = self._row("file=? AND occurrence=?", record.file, occurrence)
        rank = place - len(record.review) * 2**40  # more reasons first
        values = (json.dumps(record.review), json.dumps(problems), rank, self._number)
        if row is None:
            self._state.execute(
                "INSERT INTO records (reasons, problems, rank, scan, file, occurrence, digest, record) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*values, record.file, occurrence, digest, text))
            return
        self._state.execute("UPDATE records SET reasons=?, problems=?, rank=?, scan=? WHERE id=?",
                            (*values, row["id"]))
        if row["digest"] == digest:
            return
        if row["verdict"] == "accepted" and row["edits"] and _digest(_reviewed(row))[1] == digest:
            self._settle(row["id"], record)  # an export that was interrupted behind its last step but this
            return
        self._state.execute("UPDATE records SET record=?, digest=?, lost=COALESCE(edits, lost), edits=NULL, "
                            "verdict='', version=version+1 WHERE id=?", (text, digest, row["id"]))

    def _refresh(self) -> None:
        if _signature(self.folder / FILE) != self._signature:
            self._scan()

    def _next(self, session: str, after: int | None, but: set[int]) -> int | None:
        least = -2**62
        for behind in (least,) if after is None else (after, least):
            with closing(self._state.execute("SELECT id FROM records WHERE verdict='' AND scan=? AND rank>? "
                                             "ORDER BY rank", (self._number, behind))) as found:
                for (record,) in found:
                    if record not in but and not self._holder(record, session):
                        return record
        return None

    def _holder(self, record: int, session: str) -> str:
        """The name of another reviewer who has the record; empty where nobody has."""
        owner, who, until = self._leases.get(record, (session, "", 0.0))
        return "" if owner == session or until < time.monotonic() else who or "somebody else"

    def _lease(self, record: int, session: str, who: str) -> None:
        now = time.monotonic()
        self._leases.pop(record, None)
        self._leases = {other: lease for other, lease in self._leases.items() if lease[2] >= now}
        own = [other for other, lease in self._leases.items() if lease[0] == session]
        for other in own[:max(0, len(own) + 1 - _MOST_LEASES)]:  # the oldest
            del self._leases[other]
        self._leases[record] = session, who, now + LEASE_S

    def _item(self, record: int) -> Item:
        row = self._row("id=? AND scan=?", record, self._number)
        if row is None:
            raise ReviewError(f"record {record} is not in {self.folder / FILE} any more")
        edits, lost = (None if row[name] is None else Edits.model_validate_json(row[name])
                       for name in ("edits", "lost"))
        return Item(row["id"], parse_record(json.loads(row["record"])), json.loads(row["reasons"]),
                    json.loads(row["problems"]), row["rank"], row["version"], edits, row["verdict"], row["who"], lost)

    def _row(self, where: str, *values: Any) -> sqlite3.Row | None:
        return next(iter(self._rows(f"SELECT * FROM records WHERE {where}", *values)), None)

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self._state.execute(query, values).fetchall()


def _reviewed(row: sqlite3.Row) -> PictureRecord:
    return accepted(parse_record(json.loads(row["record"])), Edits.model_validate_json(row["edits"]), row["who"],
                    row["time"])


def _digest(record: PictureRecord) -> tuple[str, str]:
    """A record's line without its reasons for a review, and the hash of it."""
    text = record_line(replace(record, review=()))
    return text, hashlib.sha256(text.encode()).hexdigest()


def _signature(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns
