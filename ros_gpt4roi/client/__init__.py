"""A Python client of the perception node: ask, watch, describe, listen.

    from ros_gpt4roi.client import Client

    with Client() as client:
        answer = client.ask("what is left of region 2?", on_text=lambda piece: print(piece, end="", flush=True))
        print(client.ask("Why?", conversation_id=answer.conversation_id).text)
        for frame in client.descriptions():
            print({description.region.id: description.text for description in frame.descriptions})

`ask`, `describe`, `find_evidence` and `watch` wait. `ask_async` and its like return a `Reply`, which is a
`concurrent.futures.Future`, for programs with an event loop of their own:
`answer = await asyncio.wrap_future(client.ask_async("why?"))`.

ROS is used only where the client's node is spun: in a thread of the client's own, or in the caller's executor. The
caller's functions are called there, and must return at once. So every method may be called from any thread, and a
KeyboardInterrupt in a thread that waits for an answer never meets rclpy in the middle of a message.
"""

from .client import STATUS_NAMES, Client, status_name
from .connection import ClientError, NodeState, NoNodeError, Reply
from .requests import AskReply, ServiceReply
from .watch import WatchReply

__all__ = ["STATUS_NAMES", "AskReply", "Client", "ClientError", "NoNodeError", "NodeState", "Reply",
           "ServiceReply", "WatchReply", "status_name"]
