"""A connection to a server: texts are sent for, grow, and end; on a thread of its own.

Whoever owns texts (the scheduler's worker) hands them in and takes what is new of them; nothing of a text is changed on
the other thread.
"""
from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import random
import re
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import NoReturn, cast

import httpx2

from ..types import Status
from .chunks import (
    LONGEST_EVENT,
    MOST_REFUSAL,
    MOST_TEXT,
    Piece,
    ServerError,
    content_of,
    read_event,
    retry_seconds,
    server_words,
)
from .messages import RemoteText, trial
from .options import KEY_VARIABLE, ServerOptions

_log = logging.getLogger(__name__)
_FIRST_WAIT_S = 0.5  # for a server that is busy and does not say how long
_MOST_LISTED = 1 << 20  # bytes of the list of models
_NAMES_SHOWN = 8
_CLOSE_S = 2.0
_REST_S = 1.0  # that is waited for the end of a stream whose text has ended
# A proxy in front of a server that is not there.
_NOBODY = frozenset((502, 503, 504))
_BUSY, _NOT_FOUND = 429, 404
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d+){3}|\[::1\])(?::\d+)?$")

News = tuple[RemoteText, Piece | ServerError]


class Server:
    """One server and its model.

    Args:
        url: Base address, as `check_url` gives it.
        options: How it is used.
        key: Goes with every request; empty: none.
        rows: Most texts at the same time, of those with priority and of the others.

    Attributes:
        model: The model's name; empty until the server has named it.
        trouble: Why the server cannot be used: it cannot be reached, or refuses all that it is asked; None while it
            can. It is looked for, and comes back by itself.
        counters: What has happened, for diagnostics.
    """

    def __init__(self, url: str, options: ServerOptions, key: str, rows: tuple[int, int]):
        self.url, self.options = url, options
        self.host = httpx2.URL(url).netloc.decode("ascii")
        self.model, self.trouble = options.model, cast(ServerError | None, None)
        self._probabilities = True  # whether it takes a request for them
        self.counters = {"server_texts": 0, "server_errors": 0, "server_busy": 0, "server_lost": 0}
        self._key = key
        self._headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._tasks: dict[RemoteText, asyncio.Task[None]] = {}  # the loop's own, as all that follows
        self._search: asyncio.Task[None] | None = None
        self._trial: asyncio.Task[ServerError | None] | None = None
        self._loop = asyncio.new_event_loop()
        self._gates = [asyncio.Semaphore(count) for count in rows]
        limit = sum(rows)
        # Nothing of the environment is looked at: proxies would get the pictures, .netrc would give a password away.
        self._http = httpx2.AsyncClient(
            headers=self._headers, verify=ssl.create_default_context(), trust_env=False, follow_redirects=False,
            timeout=httpx2.Timeout(options.stall_timeout_s, connect=options.connect_timeout_s),
            limits=httpx2.Limits(max_connections=limit + 2, max_keepalive_connections=limit))
        self._thread = threading.Thread(target=self._run, name="gpt4roi-server", daemon=True)
        self._thread.start()

    @property
    def gone(self) -> str:
        """Why it cannot be used, in words for people; empty while it can."""
        return str(self.trouble or "")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._http.aclose())
        self._loop.close()

    @property
    def in_the_clear(self) -> str:
        """What everybody on the network can read who should not; empty where there is none."""
        if "Authorization" in self._headers and self.url.startswith("http:") and not _LOOPBACK.match(self.host):
            return f"the key of {KEY_VARIABLE} goes to {self.host} without TLS, expected https"
        return ""

    # --- from any other thread -----------------------------------------------------------------------------------

    def greet(self, insist: bool = True) -> None:
        """Ask for the server's models, and wait for the answer; one that is gone is looked for from now on.

        Args:
            insist: Raise where it refuses; else it is looked for as one that is gone.

        Raises:
            ServerError: It refuses, or it is not clear which model is meant.
        """
        found: Future[None] = asyncio.run_coroutine_threadsafe(self._greet(), self._loop)  # limited in time
        try:
            found.result()
        except ServerError as error:
            if insist and not error.gone:
                raise
            self._loop.call_soon_threadsafe(self._lose, error)
            self.trouble = error

    def add(self, texts: list[RemoteText], priority: bool) -> None:
        """Send for texts, all about one picture."""
        self._loop.call_soon_threadsafe(self._start, texts, priority)

    def cancel(self, text: RemoteText) -> None:
        """Let a text be: its connection is closed, by which the server learns of it."""
        self._loop.call_soon_threadsafe(self._stop, text)

    def news(self, wait_s: float) -> Iterator[News]:
        """What has come since the last call, after a wait where there is nothing yet. What comes meanwhile is left."""
        with contextlib.suppress(queue.Empty):
            yield self._news.get(timeout=wait_s)
            for _ in range(self._news.qsize()):
                yield self._news.get_nowait()

    def close(self) -> None:
        """Close all connections, and end the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            self._thread.join(_CLOSE_S)

    # --- on the thread of its own --------------------------------------------------------------------------------

    async def _end(self) -> None:
        tasks = [*self._tasks.values(), *(task for task in (self._search, self._trial) if task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.stop()

    def _start(self, texts: list[RemoteText], priority: bool) -> None:
        first = asyncio.Event() if self.options.share_prefix and len(texts) > 1 else None
        for number, text in enumerate(texts):
            task = self._loop.create_task(self._serve(text, self._gates[not priority], first, leads=number == 0))
            self._tasks[text] = task
            task.add_done_callback(partial(self._done, text))

    def _done(self, text: RemoteText, task: asyncio.Task[None]) -> None:
        del self._tasks[text]

    def _stop(self, text: RemoteText) -> None:
        if (task := self._tasks.get(text)) is not None:
            task.cancel()

    async def _serve(self, text: RemoteText, gate: asyncio.Semaphore, first: asyncio.Event | None, leads: bool) -> None:
        """Get one text, whatever happens; `first` is set when the one that leads has its first word, or has ended."""
        try:
            if first is not None and not leads:
                await first.wait()
            async with gate:
                try:
                    await self._attempt(text, first)
                except ServerError as error:
                    await self._judge(error)
                    raise
        except ServerError as error:
            self.counters["server_errors"] += 1
            self._news.put((text, error))
        except Exception as error:  # whoever waits for the text must hear of its end
            _log.exception("a text of the server at %s failed", self.host)
            self._news.put((text, ServerError(Status.FAILED, f"{type(error).__name__}: {error}")))
        finally:
            if first is not None and leads:
                first.set()

    async def _judge(self, error: ServerError) -> None:
        """A text has failed: find out whether all would, as with a key that has expired. Several ask once."""
        if error.gone:
            self._lose(error)
        elif error.status is Status.FAILED and self.trouble is None:
            if self._trial is None or self._trial.done():
                self._trial = self._loop.create_task(self._try())
            if (why := await asyncio.shield(self._trial)) is not None:  # a text that is let go leaves it to others
                self._lose(why)

    async def _try(self) -> ServerError | None:
        """Let the server write a word about a grey picture, which nobody is told; gives why it does not."""
        try:
            # As a whole: nobody else's time is over while it goes on.
            async with asyncio.timeout(self.options.connect_timeout_s + self.options.stall_timeout_s + _REST_S):
                await self._stream(trial(self.options), None, asks=False)
        except TimeoutError:
            return self._stalled()
        except _Busy:
            return None
        except _Unknown as unknown:
            return unknown.error
        except _Unasked:
            return self._closed()
        except ServerError as error:
            return error
        return None

    async def _attempt(self, text: RemoteText, first: asyncio.Event | None) -> None:
        """Send for a text, again where the server is busy, or has closed a connection that was kept open."""
        deadline, wait_s = time.monotonic() + self.options.busy_timeout_s, _FIRST_WAIT_S
        again, renamed, asks = True, False, self._probabilities
        while True:
            self.counters["server_texts"] += 1
            try:
                await self._stream(text, first, asks)
                self._probabilities = self._probabilities and asks
                return
            except _Plainer:
                asks = False
            except _Busy as busy:
                self.counters["server_busy"] += 1
                pause = wait_s * random.uniform(0.8, 1.2)
                if busy.retry_s is not None:  # at once and again, where it says 0, would be a storm
                    pause = max(busy.retry_s, pause)
                if time.monotonic() + pause > deadline:
                    raise ServerError(Status.OVERLOADED, f"the server at {self.host} is busy, and asks to wait "
                                                         f"{pause:.1f} s") from None
                wait_s *= 2
                await asyncio.sleep(pause)
            except _Unknown as unknown:
                before = self.model
                if renamed or self.options.model:
                    raise unknown.error from None
                renamed = True
                await self._greet()
                if self.model == before:
                    raise unknown.error from None
                _log.warning("the server at %s has another model now: %s", self.host, self.model)
            except _Unasked:
                if not again:
                    raise self._closed() from None
                again = False

    async def _stream(self, text: RemoteText, first: asyncio.Event | None, asks: bool) -> None:
        """Send for a text and pass on what comes; `asks`: for the probabilities of its tokens, too."""
        body = json.dumps({"model": self.model, "messages": text.messages, "max_tokens": text.max_new_tokens,
                           "stream": True, **text.sampling, **({"logprobs": True} if asks else {})})
        answered = ended = False
        try:
            async with self._http.stream("POST", f"{self.url}/chat/completions", content=body.encode(),
                                         headers={"Content-Type": "application/json",
                                                  "Accept": "text/event-stream"}) as response, \
                    asyncio.timeout(self.options.stall_timeout_s) as limit:  # comments are no sign of a text
                answered = True
                if response.status_code != 200:
                    await self._refuse(response, text, asks)
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise ServerError(Status.FAILED, f"the server at {self.host} sent a compressed text, which was not "
                                                     "asked for")
                async for event in httpx2.EventSource(response, max_event_size=LONGEST_EVENT):
                    if ended or event.data == "[DONE]":  # read to its end, so that the connection can be used again
                        continue
                    if response.num_bytes_downloaded > MOST_TEXT:
                        raise ServerError(Status.FAILED, f"the server at {self.host} sent more than {MOST_TEXT} bytes "
                                                         f"for a text of at most {text.max_new_tokens} tokens")
                    piece = read_event(event.data)
                    ended = piece.ended
                    limit.reschedule(self._loop.time() + (_REST_S if ended else self.options.stall_timeout_s))
                    if (piece.text or ended) and text in self._tasks:
                        self._news.put((text, piece))
                        if first is not None:
                            first.set()
        except TimeoutError:
            if not ended:
                raise self._stalled() from None
        except httpx2.HTTPError as error:
            if not ended:
                raise self._failure(error, answered) from error
        if not ended:
            raise ServerError(Status.FAILED, f"the server at {self.host} broke off in the middle of a text")

    def _failure(self, error: httpx2.HTTPError, answered: bool) -> Exception:
        """What became of a text whose connection failed."""
        if isinstance(error, httpx2.SSEError):
            return ServerError(Status.FAILED, f"the server at {self.host} sent no stream of events, or an event of "
                                              f"more than {LONGEST_EVENT} bytes")
        if isinstance(error, httpx2.DecodingError):
            return ServerError(Status.FAILED, f"the server at {self.host} sent what cannot be decoded")
        if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
            return self._unreachable(error)
        if isinstance(error, (httpx2.ReadTimeout, httpx2.WriteTimeout, httpx2.PoolTimeout)):
            return self._stalled()
        if not answered:
            return _Unasked()
        return ServerError(Status.FAILED, f"the connection to the server at {self.host} broke in the middle of a text",
                           gone=True)

    def _closed(self) -> ServerError:
        return ServerError(Status.FAILED, f"the server at {self.host} closed the connection without an answer",
                           gone=True)

    def _stalled(self) -> ServerError:
        return ServerError(Status.TIMEOUT, f"the server at {self.host} has sent nothing for "
                                           f"{self.options.stall_timeout_s:g} s", gone=True)

    def _unreachable(self, error: Exception) -> ServerError:
        why = str(error) or "no answer in time"
        return ServerError(Status.FAILED, f"the server at {self.host} cannot be reached: {why}", gone=True)

    async def _refuse(self, response: httpx2.Response, text: RemoteText, asks: bool) -> NoReturn:
        """Raise what an answer means that is no text."""
        code, words = response.status_code, server_words(await content_of(response, MOST_REFUSAL),
                                                        (*text.sent, self._key))
        if code == _BUSY or code == 503 and "Retry-After" in response.headers:
            raise _Busy(retry_seconds(response.headers.get("Retry-After", "")))
        if code in (400, 422) and asks:
            raise _Plainer
        error = ServerError(Status.FAILED, f"the server at {self.host} {self._meaning(code)}: {words}",
                            gone=code in _NOBODY)
        raise _Unknown(error) if code == _NOT_FOUND else error

    def _meaning(self, code: int) -> str:
        match code:
            case 401 | 403:
                return f"refuses the key of {KEY_VARIABLE} ({code})" if "Authorization" in self._headers else \
                    f"asks for a key ({code}), expected in {KEY_VARIABLE}"
            case 404:
                return (f"has no model {self.model!r:.80}, or is none of this kind (404), expected one at an address "
                        "such as http://host:8000/v1")
            case 400 | 413 | 422:
                return f"does not take the request ({code})"
            case _ if 300 <= code < 400:
                return f"is elsewhere ({code}), and nobody is followed there"
        return f"failed ({code})"

    async def _greet(self) -> None:
        """Learn which model there is. Raises ServerError."""
        try:
            async with asyncio.timeout(self.options.connect_timeout_s + self.options.stall_timeout_s), \
                    self._http.stream("GET", f"{self.url}/models") as response:
                code, listed = response.status_code, await content_of(response, _MOST_LISTED)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise self._unreachable(error) from error
        if self.options.model and code not in (401, 403, _BUSY, *_NOBODY):  # not every server has such a list
            return
        if code != 200:
            raise ServerError(Status.FAILED, f"the server at {self.host} {self._meaning(code)}: "
                                             f"{server_words(listed, (self._key,))}",
                              gone=code in _NOBODY or code == _BUSY)
        try:
            names = [str(entry["id"]) for entry in listed["data"]]
        except (KeyError, TypeError):
            raise ServerError(Status.FAILED, f"the server at {self.host} does not list its models; name one in "
                                             "server.model") from None
        if len(names) != 1:
            shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
            raise ServerError(Status.FAILED, f"the server at {self.host} has {len(names)} models, expected one, or its "
                                             f"name in server.model: {shown or 'none is there'}")
        self.model = names[0]

    # --- going and coming back -----------------------------------------------------------------------------------

    def _lose(self, why: ServerError) -> None:
        if self.trouble is None:
            self.counters["server_lost"] += 1
            _log.warning("%s; it is looked for every %g s", why, self.options.retry_s)
        self.trouble = why
        if self._search is None or self._search.done():
            self._search = self._loop.create_task(self._look_for())

    async def _look_for(self) -> None:
        while True:
            await asyncio.sleep(self.options.retry_s)
            try:
                await self._greet()
            except ServerError as error:
                self.trouble = error
                continue
            self.trouble = await self._try()  # one that is there need not write
            if self.trouble is not None:
                continue
            _log.warning("the server at %s is back", self.host)
            return


class _Busy(Exception):
    """The server has no time; `retry_s`: when it may have some, if it says so."""

    def __init__(self, retry_s: float | None):
        super().__init__()
        self.retry_s = retry_s


class _Plainer(Exception):
    """The server may take the request without what not every server gives: the probabilities of tokens."""


class _Unknown(Exception):
    """The server does not know the model, or the address; `error`: what becomes of the text."""

    def __init__(self, error: ServerError):
        super().__init__()
        self.error = error


class _Unasked(Exception):
    """The connection ended before an answer began."""
