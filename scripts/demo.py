"""The whole way once: a simulated camera and the perception node as two processes, this one as their client over DDS.

Prints the description of every region of a few frames, asks some questions through the `ask` action, saves the
annotated frame as a PNG. scripts/demo.sh sets up and runs it.
"""

from __future__ import annotations

import argparse
import array
import os
import re
import sys
import tempfile
import wave
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import recorded_speech
from ament_index_python.packages import get_package_prefix
from isolation import claim_domain, for_children, variables
from processes import ProcessDied, Processes
from ros_gpt4roi_interfaces.msg import Answer, RegionDescription, RegionDescriptionArray, Utterance
from sensor_msgs.msg import Image
from shown_worlds import SHOWS, WHY, questions_about, world_to_show
from std_msgs.msg import Int16MultiArray, String

from ros_gpt4roi.client import Client, ClientError, status_name
from ros_gpt4roi.interrupts import Interrupts
from ros_gpt4roi.messages import stamp_text
from ros_gpt4roi.printable import show
from ros_gpt4roi.sim.worlds import HOUSEHOLD, TABLETOP
from ros_gpt4roi.speech.audio import AudioError
from ros_gpt4roi.speech.microphone import Microphone

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "demo_output" / "annotated.png"
SPOKEN = ROOT / "demo_output" / "answer.wav"
RECORDINGS = {"1": "what_is_region_one", "2": "what_is_region_two"}  # by the region that they ask about
FRAMES = 3
START_LIMIT_S = 180.0  # loading the model and rendering the first view, on a busy machine
FRAME_LIMIT_S = 60.0
ANSWER_LIMIT_S = 60.0

_ERROR = 2  # a NodeState's level


class DemoError(RuntimeError):
    """Why the demonstration did not succeed."""


class Demo:
    """What the client has received, and the steps of the demonstration."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._images: deque[Image] = deque(maxlen=1)
        self._region_id = "1"  # of one that was seen
        client.on_annotated_image(self._images.append)

    def wait_for_node(self) -> None:
        """Wait until the node can be asked, and print what it says of itself meanwhile."""
        said = ""

        def is_settled() -> bool:
            nonlocal said
            state = self._client.state
            if state is not None and state.message != said:
                said = state.message
                show(f"  {said}")
            return state is not None and (state.values.get("state") == "active" or state.level == _ERROR)

        self._client.wait_for(is_settled, START_LIMIT_S, "the perception node")
        self._client.wait_for_node(START_LIMIT_S)  # says why, where it failed

    def show_frames(self) -> list[RegionDescription]:
        """Print `FRAMES` frames as they come. Returns the last one's descriptions of regions that all of them have."""
        frames: list[RegionDescriptionArray] = []
        for frame in self._client.descriptions(START_LIMIT_S):
            if len(frame.descriptions) < 2:
                continue  # of the camera's first moment; the questions need two regions
            frames.append(frame)
            times = ", ".join(f"{item.stage} {item.duration.sec * 1000 + item.duration.nanosec / 1e6:.0f} ms"
                              for item in frame.stage_times)
            print(f"\nFrame {stamp_text(frame.header.stamp)} ({times})")
            for description in frame.descriptions:
                kept = ", kept" if description.reused else ""
                show(f"  region {description.region.id:>2}  {description.text}  ({description.confidence:.2f}{kept})")
            if len(frames) == FRAMES:
                break
        in_all = set.intersection(*({d.region.id for d in frame.descriptions} for frame in frames))
        common = [d for d in frames[-1].descriptions if d.region.id in in_all]
        if len(common) < 2:
            raise DemoError(f"the {FRAMES} frames have fewer than two regions in common; the questions need two")
        self._region_id = common[0].region.id
        return common

    def save_picture(self) -> None:
        """Write the newest annotated frame to PICTURE."""
        self._client.wait_for(lambda: bool(self._images), FRAME_LIMIT_S, "an annotated image")
        message = self._images[-1]
        if message.encoding != "rgb8":
            raise DemoError(f"annotated image has encoding {message.encoding!r}; expected rgb8")
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        image = rows[:, : message.width * 3].reshape(message.height, message.width, 3)
        PICTURE.parent.mkdir(exist_ok=True)
        if not cv2.imwrite(str(PICTURE), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise DemoError(f"{PICTURE} could not be written")
        print(f"\nAnnotated frame: {PICTURE}")

    def ask(self, title: str, question: str, conversation_id: str = "") -> Answer:
        """Ask and print the answer as it grows. Raises DemoError where its status is not OK or it is empty."""
        print(f"\n{title}\n  ? {question}\n  > ", end="", flush=True)
        answer = self._client.ask(question, conversation_id=conversation_id, limit_s=ANSWER_LIMIT_S,
                                  on_text=lambda piece: show(piece, end=""))
        print()
        if answer.status != Answer.OK:
            status = status_name(answer)
            raise DemoError(f"{question!r} was answered with {status}: {answer.error}")
        if not answer.text.strip():
            raise DemoError(f"{question!r} was answered with an empty text")
        return answer

    def ask_all(self, questions: Sequence[tuple[str, str]]) -> None:
        """Ask questions with their titles, and show the regions that are found. Raises DemoError, ClientError."""
        conversation = ""
        for title, question in questions:
            answer = self.ask(title, question, conversation if question == WHY else "")
            conversation = answer.conversation_id
            if question.startswith("Which region"):
                for region in answer.regions:
                    box = region.bbox
                    show(f"    region {region.id}: {box.size_x:.0f} x {box.size_y:.0f} pixels around "
                         f"({box.center.position.x:.0f}, {box.center.position.y:.0f})")

    def stay_with_console(self) -> None:
        """Start the web console, print its address, and stay until Ctrl-C."""
        with running_web_console(self._client) as address:
            print(f"\nOpen  {address}  in a browser: click a box, draw one, or type a question. Ctrl-C ends all.",
                  flush=True)
            self._wait_for_ever()

    def converse(self, descriptions: Sequence[RegionDescription]) -> None:
        """Start the speech node; play it a recorded question, or let it listen where there is a microphone."""
        listening = _has_microphone()
        SPOKEN.parent.mkdir(exist_ok=True)
        SPOKEN.unlink(missing_ok=True)
        sound = ["audio.source:=microphone"] if listening else [
            "audio.source:=topic", f"audio.rate:={recorded_speech.RATE}", "audio.qos.reliability:=reliable",
            "audio.qos.depth:=1000", "speaking.enabled:=true", f"speaking.command:=espeak-ng --stdin -w {SPOKEN}"]
        if listening:
            sound.append("speaking.enabled:=true")
        utterances: list[Utterance] = []
        replies: list[String] = []
        self._client.listen(Utterance, "utterances", utterances.append)
        self._client.listen(String, "replies", replies.append)
        parameters = [word for item in sound for word in ("-p", item)]
        with tempfile.TemporaryDirectory(prefix="ros_gpt4roi_speech_") as folder, \
                Processes(Path(folder), for_children({})) as processes:
            processes.start("speech", [executable("speech"), "--ros-args", *parameters])

            def wait_for(condition: Callable[[], object], what: str) -> None:
                def checked() -> object:
                    processes.check()
                    return condition()
                self._client.wait_for(checked, START_LIMIT_S, what)

            if listening:
                print("\nAsk, such as \"What is region one?\", into the microphone. Ctrl-C ends all.", flush=True)
                with suppress(KeyboardInterrupt):
                    for _ in self._client.descriptions(FRAME_LIMIT_S):
                        processes.check()
                        while utterances:
                            show(f"  ? {utterances.pop(0).text}")
                        while replies:
                            show(f"  > {replies.pop(0).data}")
                return
            ids = {item.region.id for item in descriptions}
            name = next((name for region_id, name in RECORDINGS.items() if region_id in ids), None)
            if name is None:
                raise DemoError(f"the frames have regions {sorted(ids)}; the recorded questions are about "
                                f"{' and '.join(RECORDINGS)}: try another --seed")
            print(f"\nNo microphone: playing {recorded_speech.FOLDER / name}.flac to the speech node", flush=True)
            audio = self._client.node.create_publisher(Int16MultiArray, "audio", 1000)
            wait_for(audio.get_subscription_count, "the speech node")
            samples = (recorded_speech.silence(0.5), recorded_speech.recording(name), recorded_speech.silence(1.5))
            for piece in recorded_speech.chunks(np.concatenate(samples)):
                audio.publish(Int16MultiArray(data=array.array("h", piece.tobytes())))
            wait_for(lambda: utterances and replies, "an answer to the spoken question")
            show(f"  ? {utterances[0].text}\n  > {replies[0].data}")
            wait_for(_is_spoken, "the spoken answer")
        print(f"\nSpoken answer: {SPOKEN}")

    def stay(self, domain: int) -> None:
        """Print how to ask, then the answers to whatever is asked, until Ctrl-C."""
        print(f"""
Camera and node keep running; Ctrl-C ends them. In another terminal:

    cd {ROOT} && . scripts/env.sh
    export ROS_DOMAIN_ID={domain} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
    python -m ros_gpt4roi.console.ask "What is region {self._region_id}?"

or, where the ros2 command is installed:

    ros2 run ros_gpt4roi ask "What is region {self._region_id}?"
    ros2 topic pub --once /query_text std_msgs/msg/String "{{data: 'How many red things are there?'}}"

Answers:""", flush=True)
        self._client.on_answers(lambda answer: show(f"  > {answer.text or answer.error}"))
        self._wait_for_ever()

    def _wait_for_ever(self) -> None:
        with suppress(KeyboardInterrupt):
            for _ in self._client.descriptions(FRAME_LIMIT_S):
                pass
        print()


def _has_microphone() -> bool:
    try:
        Microphone("", "", lambda chunk: None, lambda: 0).close()
    except AudioError:
        return False
    return True


def _is_spoken() -> bool:
    """Whether the spoken answer is written to its end."""
    try:
        with wave.open(str(SPOKEN)) as file:
            return 0 < file.getnframes() * file.getsampwidth() <= SPOKEN.stat().st_size
    except (OSError, EOFError, wave.Error):
        return False


def executable(name: str) -> str:
    """Path of one of the package's installed executables, the one that `ros2 run ros_gpt4roi <name>` runs."""
    path = Path(get_package_prefix("ros_gpt4roi")) / "lib" / "ros_gpt4roi" / name
    if not path.is_file():
        raise DemoError(f"{path} does not exist; run scripts/setup.sh")
    return str(path)


@contextmanager
def running_nodes(interrupts: Interrupts, name: str, *, rate_hz: float, views: int, seed: int = 0,
                  world: str = TABLETOP, model: Path | None = None) -> Iterator[tuple[Client, int]]:
    """A simulated camera and the perception node, until the block ends. Yields a client and the ROS domain.

    The model is the one that is called like the world, unless a folder is given.
    """
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"ros_gpt4roi_{name}_")))
        domain, claim = claim_domain()
        stack.enter_context(claim)
        os.environ.update(variables(domain, home))
        # Large buffers are reused, not given back to the kernel with every image.
        environment = for_children({"MALLOC_MMAP_THRESHOLD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "536870912"})
        processes = stack.enter_context(Processes(home, environment))
        print(f"Starting a simulated camera and the perception node (ROS domain {domain}) ...", flush=True)
        processes.start("camera", [executable("sim_camera"), "--ros-args", "-p", f"world:={world}", "-p",
                                   f"rate_hz:={rate_hz}", "-p", f"views:={views}", "-p", f"seed:={seed}"])
        processes.start("perception", [executable("perception"), "--ros-args", "-p",
                                       f"model:={model.resolve() if model else world}"])

        def check() -> None:
            interrupts.check()
            processes.check()

        yield stack.enter_context(Client(name=name, check=check)), domain


@contextmanager
def running_web_console(client: Client) -> Iterator[str]:
    """The web console in a process of its own, until the block ends. Yields its address."""
    pattern = re.compile(r"^Web console: (\S+)$", re.MULTILINE)
    with tempfile.TemporaryDirectory(prefix="ros_gpt4roi_console_") as folder, \
            Processes(Path(folder), for_children({})) as processes:
        processes.start("web_console", [executable("web_console"), "--port", "0"])  # any that is free

        def address() -> re.Match[str] | None:
            processes.check()
            return pattern.search((Path(folder) / "web_console.log").read_text(encoding="utf-8"))

        client.wait_for(address, START_LIMIT_S, "the web console's address")
        shown = address()
        assert shown is not None  # it was waited for
        yield shown[1]


def run(arguments: argparse.Namespace, interrupts: Interrupts) -> None:
    world = world_to_show(arguments.world, arguments.model)
    with running_nodes(interrupts, "demo", rate_hz=SHOWS[world].rate_hz, views=SHOWS[world].views, world=world,
                       seed=arguments.seed, model=arguments.model) as (client, domain):
        demo = Demo(client)
        demo.wait_for_node()
        if arguments.console:
            demo.stay_with_console()
            return
        descriptions = demo.show_frames()
        if arguments.voice:
            demo.converse(descriptions)
            return
        demo.ask_all(questions_about(descriptions, world))
        demo.save_picture()
        if arguments.stay:
            demo.stay(domain)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=tuple(SHOWS), default=HOUSEHOLD,
                        help="what the camera looks at (%(default)s)")
    parser.add_argument("--stay", action="store_true", help="keep camera and node running until Ctrl-C")
    parser.add_argument("--console", choices=("web",), help="open a console on camera and node until Ctrl-C instead")
    parser.add_argument("--voice", action="store_true", help="ask by voice, and have the answer spoken")
    parser.add_argument("--seed", type=int, default=0, help="which scene the camera sees (0)")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a checkpoint of your own (the world's)")
    arguments = parser.parse_args()
    try:
        with Interrupts() as interrupts:  # within, so that a signal while the children are stopped does no harm
            run(arguments, interrupts)
    except KeyboardInterrupt:
        print("\ndemo.py: interrupted", file=sys.stderr)
        return 130
    except (DemoError, ClientError, ProcessDied, OSError) as error:  # OSError: a full disk, mostly
        print(f"\ndemo.py: {error}", file=sys.stderr)
        return 1
    print("\nDone. Try next:  scripts/demo.sh --stay   and ask questions of your own.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
