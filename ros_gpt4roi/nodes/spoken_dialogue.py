"""What the robot makes of spoken sentences: questions to the perception node, corrections, and what it says itself."""
from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from rclpy.node import Node
from ros_gpt4roi_interfaces.msg import Answer, Query, Region, RegionDescriptionArray, Utterance
from ros_gpt4roi_interfaces.msg import Correction as CorrectionMessage
from std_msgs.msg import Header, String

from ros_gpt4roi.client import Client, NoNodeError
from ros_gpt4roi.runtime.pointing import points
from ros_gpt4roi.runtime.region_text import RegionText, UnknownRegionError
from ros_gpt4roi.speech.listener import Heard
from ros_gpt4roi.speech.meaning import Correction, Courtesy, Meaning, NewConversation, Question
from ros_gpt4roi.speech.speaking import Speaker, SpeakingOptions
from ros_gpt4roi.speech.words import words_of

from .diagnostics import Problems
from .optional import optional_messages

_ANSWER_LIMIT_S = 60.0
_EXCUSES = {Answer.TIMEOUT: "That took too long.", Answer.NO_FRAME: "I have no picture.",
            Answer.UNKNOWN_REGION: "I see no such region.", Answer.OVERLOADED: "I have too many questions to answer.",
            Answer.INVALID: "I can not answer that."}
_WHICH = "Which region do you mean? Please ask with its name, such as region 1."  # "this", with nothing pointed at
_FAILED = "I can not answer now."
_NANOSECONDS = 1_000_000_000


class Utterances:
    """Publishes what was recognised: on `utterances`, and for hri_msgs where that is installed.

    Args:
        node: The node.
        voice_id: Name of the voice for hri_msgs.
        locale: Language that is spoken, for hri_msgs.
    """

    def __init__(self, node: Node, voice_id: str, locale: str) -> None:
        self._locale = locale
        self._publisher = node.create_publisher(Utterance, "utterances", 10)
        self._hri = optional_messages("hri_msgs", "LiveSpeech")
        self._live = None if self._hri is None else node.create_publisher(
            self._hri.LiveSpeech, f"/humans/voices/{voice_id}/speech", 10)

    def publish(self, heard: Heard, text: str, query_id: str = "") -> None:
        """Publishes a sentence, or what there is of it so far.

        Args:
            heard: When and how it was heard.
            text: The words that were meant for the robot.
            query_id: Of the question that they became; empty where they became none.
        """
        header = Header(frame_id=heard.frame_id)
        header.stamp.sec, header.stamp.nanosec = divmod(max(0, heard.stamp_ns), _NANOSECONDS)
        confidence = heard.transcript.confidence or 0.0
        self._publisher.publish(Utterance(header=header, text=text, final=heard.final, confidence=confidence,
                                          query_id=query_id))
        if self._live is not None and self._hri is not None:
            live = self._hri.LiveSpeech(confidence=confidence, **{"final" if heard.final else "incremental": text})
            if isinstance(live.header, Header):
                live.header = header
            if hasattr(live, "locale"):  # not in earlier releases
                live.locale = self._locale
            self._live.publish(live)


class SpokenDialogue:
    """Answers sentences. Thread-safe; answers come where the node is spun.

    Args:
        node: The node, which has `replies`, a topic of all that it says.
        client: Asks the perception node.
        speaking: How replies are spoken.
        follow_up_s: For so long after its first question a conversation is continued.
        problems: Receives what goes wrong; never with words that were heard.
        replied: Called when something was said to the person.
    """

    def __init__(self, node: Node, client: Client, speaking: SpeakingOptions, follow_up_s: float, problems: Problems,
                 replied: Callable[[], None]) -> None:
        self._client, self._follow_up_s, self._problems, self._replied = client, follow_up_s, problems, replied
        self._speaker = Speaker(speaking, lambda text: problems.report("speaking failed", text))
        self._replies = node.create_publisher(String, "replies", 10)
        self._lock = threading.Lock()  # held while what follows changes
        self._newest = ""  # id of the last question
        self._conversation, self._opened_s = "", 0.0
        self._last: tuple[str, Answer] | None = None  # the last question with its answer
        self._last_s = 0.0
        self._described: RegionDescriptionArray | None = None
        self.counts: Counter[str] = Counter()
        self._first_word_s = 0.0
        client.on_descriptions(self._on_descriptions)

    def close(self) -> None:
        """Falls silent."""
        self._speaker.stop()

    @property
    def speaking(self) -> bool:
        """Whether something is being spoken."""
        return self._speaker.speaking

    def fall_silent(self) -> None:
        """Stops what is being spoken."""
        self.counts["interrupted"] += self._speaker.stop()

    def trouble(self) -> str:
        """Why nothing can be spoken; empty where it can."""
        return self._speaker.missing()

    def values(self) -> dict[str, object]:
        """For diagnostics."""
        return {**self.counts, "end of speech to answer, last, seconds": self._first_word_s}

    def words(self) -> Sequence[str]:
        """What the talk is likely about."""
        described = self._described
        return () if described is None else words_of(
            (item.region.id, item.region.label, item.text) for item in described.descriptions)

    def ask_back(self, understood: str, why: str) -> None:
        """Says what was understood, and why that is not enough."""
        self.counts["asked back"] += 1
        heard = f"I understood: {understood.strip().rstrip('.?!')}. " if understood.strip() else ""
        self._say(f"{heard}{why} Please say it again.")

    def answer(self, meaning: Meaning, query_id: str, ended_s: float) -> None:
        """Does what a sentence means.

        Args:
            meaning: Of the sentence.
            query_id: Of the query that a question becomes.
            ended_s: When its end was noticed, by `time.monotonic`.
        """
        if isinstance(meaning, Question):
            self._ask(meaning.text, query_id, ended_s)
        elif isinstance(meaning, Correction):
            self._correct(meaning)
        elif isinstance(meaning, NewConversation):
            with self._lock:
                self._conversation, self._last = "", None
            self._say("A new conversation.")
        elif isinstance(meaning, Courtesy):
            self.fall_silent()

    def _say(self, text: str) -> None:
        self._replies.publish(String(data=text))
        self._speaker.say(text)
        self._replied()

    def _on_descriptions(self, message: RegionDescriptionArray) -> None:
        self._described = message

    # Questions

    def _ask(self, text: str, query_id: str, ended_s: float) -> None:
        self.counts["questions"] += 1
        with self._lock:
            if time.monotonic() - self._opened_s > self._follow_up_s:
                self._conversation = ""
            conversation, self._newest = self._conversation, query_id
        self._send(Query(text=text, query_id=query_id, conversation_id=conversation), ended_s)

    def _send(self, query: Query, ended_s: float) -> None:
        reply = self._client.ask_async(query, limit_s=_ANSWER_LIMIT_S)
        reply.add_done_callback(lambda done: self._on_answer(query, done, ended_s))

    def _on_answer(self, query: Query, done: Future[Answer], ended_s: float) -> None:
        error = done.exception()
        answer = Answer(status=Answer.FAILED) if error is not None else done.result()
        if error is not None:
            # Other errors repeat the question, which is in no log.
            self._problems.report("question failed", str(error) if isinstance(error, NoNodeError)
                                  else f"{type(error).__name__}: no answer came")
        if query.conversation_id and answer.status in (Answer.UNKNOWN_REGION, Answer.INVALID):
            # The conversation is about an older frame, or is not held any more; the person sees the newest.
            self._send(Query(text=query.text, query_id=query.query_id), ended_s)
            return
        with self._lock:
            if query.query_id != self._newest:
                self.counts["answers too late"] += 1
                return
            if not query.conversation_id:
                self._conversation, self._opened_s = answer.conversation_id, time.monotonic()
            if answer.status == Answer.OK:
                self._last, self._last_s = (query.text, answer), time.monotonic()
        self._first_word_s = time.monotonic() - ended_s
        if answer.status == Answer.OK and answer.text:
            self._say(answer.text)
        elif answer.status == Answer.INVALID and points(query.text):
            self._say(_WHICH)
        else:
            self._say(_EXCUSES.get(answer.status, _FAILED))

    # Corrections

    def _correct(self, correction: Correction) -> None:
        with self._lock:
            recent = time.monotonic() - self._last_s < self._follow_up_s
            last, described = self._last if recent else None, self._described
        region_id = ""
        if correction.subject:
            try:
                region_id = self._region_of(correction.subject, last, described)
            except UnknownRegionError:
                self._say(_EXCUSES[Answer.UNKNOWN_REGION])
                return
        message = CorrectionMessage(right=correction.instead, verdict=CorrectionMessage.RIGHT if correction.right
                                    else CorrectionMessage.WRONG)
        if correction.subject and not region_id:  # "the mug is red" says all that would have been right
            message.right = f"{correction.subject} is {correction.instead}"
        if last is not None and (not region_id or region_id in last[1].region_ids):
            question, answer = last
            message.kind, message.header, message.said = CorrectionMessage.ANSWER, answer.header, answer.text
            message.conversation_id, message.query_id = answer.conversation_id, answer.query_id
            message.question = question
            asserted = set(answer.region_ids)
            message.regions = [region for region in answer.regions if region.id in asserted]
        elif region_id and described is not None:
            item = next((item for item in described.descriptions if item.region.id == region_id), None)
            if item is None:
                self._say(_EXCUSES[Answer.UNKNOWN_REGION])
                return
            message.kind, message.header, message.said = CorrectionMessage.DESCRIPTION, described.header, item.text
            message.regions = [item.region]
        else:
            self.ask_back("", "I do not know what that is about.")
            return
        self.counts["corrections"] += 1
        heard = self._client.correct(message)
        noted = "Thank you." if correction.right else f"Noted: {_noted(message)}." if message.right else "Noted."
        self._say(noted if heard else f"{noted} But nothing records it.")

    @staticmethod
    def _region_of(subject: str, last: tuple[str, Answer] | None, described: RegionDescriptionArray | None) -> str:
        regions: list[Region] = [item.region for item in described.descriptions] if described is not None else []
        if last is not None:
            regions += last[1].regions
        ids = list(dict.fromkeys(region.id for region in regions))
        found = re.search(r"<region(\d+)>", RegionText(ids).to_model(subject))
        return ids[int(found[1]) - 1] if found else ""


def _noted(message: CorrectionMessage) -> str:
    named = [region.id for region in message.regions]
    return f"region {named[0]} is {message.right}" if len(named) == 1 and " is " not in message.right else message.right
