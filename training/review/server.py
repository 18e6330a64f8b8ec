"""The application: files of the page, and a request for each thing that the page does."""

from __future__ import annotations

import base64
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

import ros_gpt4roi.console
from ros_gpt4roi.console.access import Access, GuardedApp
from ros_gpt4roi.runtime.evidence import INDEX_FILE, EvidenceError, EvidenceIndex
from training.data.record import RecordError
from training.review.edits import Edits, unchanged
from training.review.pictures import outlines, shown_picture
from training.review.store import ConflictError, Item, ReviewError, Store

_STATIC = Path(__file__).with_name("static")
_CONSOLE = Path(ros_gpt4roi.console.__file__).with_name("static")
_BODY_BYTES = 8 << 20
_MOST_EVIDENCE = 6
_Name = Annotated[str, StringConstraints(max_length=100)]
_Id = Annotated[int, Field(ge=0, lt=2**62)]
_Ids = Annotated[list[_Id], Field(max_length=100)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    session: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    who: _Name = ""


class _Begin(_Message):
    """The page has been opened."""


class _Open(_Message):
    id: _Id | None = None
    after: Annotated[int, Field(ge=-2**62, lt=2**62)] | None = None
    but: _Ids = []


class _Keep(_Message):
    ids: _Ids


class _Save(_Message):
    id: _Id
    version: _Id
    edits: Edits
    verdict: Annotated[str, StringConstraints(pattern="^(|accepted|rejected)$")]


class _Evidence(_Message):
    id: _Id
    region: _Name


_Kind = TypeVar("_Kind", bound=_Message)


def review_app(store: Store, access: Access) -> GuardedApp:
    """Make the application.

    Args:
        store: The review.
        access: Who is let in.
    """
    api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    api.add_api_route("/", lambda: FileResponse(_STATIC / "index.html"), methods=["GET"])
    api.mount("/static", StaticFiles(directory=_STATIC))
    api.mount("/console", StaticFiles(directory=_CONSOLE))

    def answer(path: str, kind: type[_Kind], act: Callable[[_Kind], Any]) -> None:
        async def endpoint(request: Request) -> Response:
            await _let_in(request, access)
            return await run_in_threadpool(_act, act, await _message(request, kind))

        api.add_api_route(path, endpoint, methods=["POST"])

    answer("/api/begin", _Begin, lambda message: _overview(store))
    answer("/api/open", _Open, lambda message: _shown(store, store.open(
        message.session, message.who, message.id, message.after, message.but)))
    answer("/api/keep", _Keep, lambda message: store.keep(message.session, message.ids))
    answer("/api/save", _Save, lambda message: {"version": store.save(
        message.session, message.who, message.id, message.version, message.edits, message.verdict),
        "counts": store.counts()})
    indexes = _Indexes(store.folder)
    answer("/api/evidence", _Evidence, lambda message: indexes.evidence(
        store.item(message.id).record.file, message.region))
    answer("/api/export", _Begin, lambda message: {"done": store.export()} | _overview(store))

    async def picture(request: Request) -> Response:
        await _let_in(request, access)
        return await run_in_threadpool(_act, _picture, store, int(request.path_params["record"]))

    api.add_api_route("/api/picture/{record:int}", picture, methods=["GET"])
    return GuardedApp(api, access)


class _Indexes:
    """The index of the folder, read when it is first asked for and when it has changed."""

    def __init__(self, folder: Path):
        self._folder, self._lock = folder, threading.Lock()
        self._read: tuple[int, EvidenceIndex] | None = None

    def evidence(self, file: str, region: str) -> dict[str, Any]:
        """The records that a region of a picture resembles most, of other pictures."""
        path = self._folder / INDEX_FILE
        with self._lock:
            changed = path.stat().st_mtime_ns if path.exists() else 0
            if self._read is None or self._read[0] != changed:
                self._read = changed, EvidenceIndex(self._folder)
            index = self._read[1]
            own = index.row(file, region)
        if own is None:
            raise ReviewError(f"region {region} of this picture is not in the index; make that anew by: "
                              f"python -m training.data index {self._folder} --model NAME")
        return {"model": index.model, "records": [
            {"file": found.file, "region": found.region_id, "name": found.name, "description": found.description,
             "source": found.source, "distance": distance,
             "jpeg": base64.b64encode(index.small_picture(found)).decode()}
            for found, distance in index.nearest(own, _MOST_EVIDENCE, but_file=file)]}


async def _let_in(request: Request, access: Access) -> None:
    if not await access.admits(request.headers.get("authorization", "").removeprefix("Bearer ")):
        raise HTTPException(401, "this page asks for a token; the terminal where it was started shows it")


async def _message(request: Request, kind: type[_Kind]) -> _Kind:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY_BYTES:
            raise HTTPException(413, f"a request has more than {_BODY_BYTES} bytes")
    try:
        return kind.model_validate_json(bytes(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise HTTPException(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _act(act: Callable[..., Any], *arguments: Any) -> Response:
    try:
        result = act(*arguments)
        return result if isinstance(result, Response) else JSONResponse(result)
    except ConflictError as error:
        return JSONResponse({"detail": str(error), "record": _item(error.item)}, 409)
    except (ReviewError, EvidenceError) as error:
        return JSONResponse({"detail": str(error)}, 422)
    except (RecordError, OSError, sqlite3.Error) as error:
        return JSONResponse({"detail": str(error)}, 503)


def _overview(store: Store) -> dict[str, Any]:
    return {"counts": store.counts(), "names": store.names, "problems": store.problems}


def _shown(store: Store, item: Item | None) -> dict[str, Any]:
    return {"record": None if item is None else _item(item), "counts": store.counts()}


def _item(item: Item) -> dict[str, Any]:
    record = item.record
    said = {"regions": {region.id: _said(region) | {"box": region.box} for region in record.regions},
            "conversations": [_said(conversation) for conversation in record.conversations]}
    return {"id": item.id, "rank": item.rank, "version": item.version, "file": record.file, "width": record.width,
            "height": record.height, "reasons": item.reasons, "problems": item.problems, "verdict": item.verdict,
            "who": item.who, "holder": item.holder, "edits": (item.edits or unchanged(record)).model_dump(),
            "lost": item.lost and item.lost.model_dump(), "said": said, "outlines": outlines(record)}


def _said(item: Any) -> dict[str, Any]:
    return {"source": item.source, "confidence": item.confidence, "judgements": [
        {"said": judged.said, "right": judged.right, "wrong": judged.wrong, "who": judged.who}
        for judged in item.judgements[-5:]]}


def _picture(store: Store, number: int) -> Response:
    item = store.item(number)
    try:
        content, kind = shown_picture(store.folder, item.record)
    except (ValueError, OSError) as error:
        raise ReviewError(f"the picture can't be shown: {error}") from error
    return Response(content, media_type=kind)
