"""Malformed questions, and requests of every service and action: the node's own, and those that rclpy gives it."""

from __future__ import annotations

from random import Random
from typing import Any

from action_msgs.srv import CancelGoal
from builtin_interfaces.msg import Duration
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from ros_gpt4roi_interfaces.action import Ask, Watch
from ros_gpt4roi_interfaces.msg import Query
from ros_gpt4roi_interfaces.srv import DescribeRegions
from std_msgs.msg import Header, String

from .boxes import odd_masks, odd_regions
from .kinds import ODD_TEXTS, Sample, kind, odd_header, odd_number

_QUERIES = "ask", "ask_question", "watch"
SOON = Duration(nanosec=50_000_000)  # how long a watch goes on that is not refused
_POSSIBLE = 4, 7  # from active: deactivate and shutdown, which labels name, too

# --- questions -------------------------------------------------------------------------------------------------------


def _odd_question(random: Random) -> str:
    return random.choice((
        *ODD_TEXTS, "x" * 2001, "what is it? " * 20_000, "<image>", "<|im_start|>system", "<region1>", "</s>",
        "<point>", "What is region 99?", "regions 1 and 99", "region " * 250, "region 1, " * 150,
        "regions 1" + " and 1" * 300,
        "What is region " + random.choice(ODD_TEXTS)[:50] + "?", "region (((((1", "region \u0661", "region 1\u20e3",
        "region 2\u662f\u4ec0\u4e48", "Region#" + "9" * 1000, "number " * 200, "\u0301" * 1900, "#" * 1900,
        "".join(chr(random.randrange(32, 0xD800)) for _ in range(random.randint(1, 200)))))


@kind("strange text", "query_text")
def _(random: Random, sample: Sample) -> String:
    return String(data=_odd_question(random))


@kind("strange text", *_QUERIES)
def _(random: Random, sample: Sample) -> Query:
    return Query(text=_odd_question(random))


@kind("strange ids or format", *_QUERIES)
def _(random: Random, sample: Sample) -> Query:
    return Query(text="What is region 1?", query_id=random.choice(ODD_TEXTS),
                 conversation_id=random.choice(("", *ODD_TEXTS)), format=random.choice(("", "json", *ODD_TEXTS)))


@kind("frame that is not held", *_QUERIES)
def _(random: Random, sample: Sample) -> Query:
    return Query(text="What is region 1?", header=odd_header(random))


@kind("impossible boxes", *_QUERIES)
def _(random: Random, sample: Sample) -> Query:
    return Query(text="What is region 1?", boxes=odd_regions(random), conversation_id=random.choice(("", "", "x")))


@kind("impossible masks", *_QUERIES)
def _(random: Random, sample: Sample) -> Query:
    return Query(text="What is region 1?", boxes=odd_masks(random))


@kind("another attempt of what was never asked", "ask")
def _(random: Random, sample: Sample) -> Ask.Goal:
    query = Query(text="What is region 1?", query_id=random.choice(("", random.randbytes(8).hex())))
    return Ask.Goal(query=query, attempt=random.choice((1, 2**32 - 1)))


@kind("strange rates and times", "watch")
def _(random: Random, sample: Sample) -> Watch.Goal:
    timeout = random.choice((Duration(sec=-1), Duration(sec=-2**31, nanosec=2**32 - 1), Duration(nanosec=1)))
    return Watch.Goal(query=Query(text="What is region 1?"), every_n_frames=random.choice((0, 1, 2**32 - 1)),
                      timeout=timeout)


@kind("impossible boxes", "describe_regions")
def _(random: Random, sample: Sample) -> DescribeRegions.Request:
    return DescribeRegions.Request(boxes=odd_regions(random))


@kind("impossible masks", "describe_regions")
def _(random: Random, sample: Sample) -> DescribeRegions.Request:
    return DescribeRegions.Request(boxes=odd_masks(random))


@kind("frame that is not held", "describe_regions")
def _(random: Random, sample: Sample) -> DescribeRegions.Request:
    return DescribeRegions.Request(header=odd_header(random))


# --- parameters and lifecycle ----------------------------------------------------------------------------------------


def _odd_parameters(random: Random) -> list[Parameter]:
    names = ("model", "transport", "image.max_pixels", "pipeline.device", "sync.slop_s", "qos.image.depth", "autostart",
             "pipeline.vision.engine.cache", "qos_overrides.x", "start_type_description_service", *ODD_TEXTS)
    values = (
        ParameterValue(type=ParameterType.PARAMETER_NOT_SET), ParameterValue(type=200),
        ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=random.choice((-2**63, 2**63 - 1, 0, -1))),
        ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=odd_number(random)),
        ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=random.choice(ODD_TEXTS)),
        ParameterValue(type=ParameterType.PARAMETER_BYTE_ARRAY, byte_array_value=[b"\xff"] * 100),
        ParameterValue(type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=[*ODD_TEXTS]),
        ParameterValue(type=ParameterType.PARAMETER_DOUBLE_ARRAY, double_array_value=[float("nan")] * 1000))
    return [Parameter(name=random.choice(names), value=random.choice(values)) for _ in range(random.randint(1, 4))]


@kind("parameters that can not be set", "perception/set_parameters")
def _(random: Random, sample: Sample) -> SetParameters.Request:
    return SetParameters.Request(parameters=_odd_parameters(random))


@kind("parameters that can not be set", "perception/set_parameters_atomically")
def _(random: Random, sample: Sample) -> SetParametersAtomically.Request:
    return SetParametersAtomically.Request(parameters=_odd_parameters(random))


_BY_NAME = {"perception/get_parameters": GetParameters, "perception/describe_parameters": DescribeParameters,
            "perception/get_parameter_types": GetParameterTypes}


@kind("names that are none", *_BY_NAME)
def _(random: Random, sample: Sample) -> Any:
    return _BY_NAME[sample.input].Request(
        names=[random.choice((*ODD_TEXTS, "model")) for _ in range(random.choice((0, 1, 5, 200)))])


@kind("strange prefixes and depths", "perception/list_parameters")
def _(random: Random, sample: Sample) -> ListParameters.Request:
    return ListParameters.Request(prefixes=[random.choice(ODD_TEXTS) for _ in range(random.choice((0, 1, 50)))],
                                  depth=random.choice((0, 1, 2**63, 2**64 - 1)))


@kind("transitions that are not possible", "perception/change_state")
def _(random: Random, sample: Sample) -> ChangeState.Request:
    request = ChangeState.Request()
    request.transition.id = random.choice([other for other in range(256) if other not in _POSSIBLE])
    request.transition.label = random.choice(("", "configure", "activate", "cleanup", "transition_success",
                                              *ODD_TEXTS[1:]))
    return request


# --- the actions' own services ---------------------------------------------------------------------------------------

ACTIONS = {"ask": Ask, "watch": Watch}


def _services(name: str) -> dict[str, Any]:
    """The service of that name of each action, and the action's type."""
    return {f"{action}/_action/{name}": type_ for action, type_ in ACTIONS.items()}


@kind("goals that are none", *_services("get_result"))
def _(random: Random, sample: Sample) -> Any:
    request = _services("get_result")[sample.input].Impl.GetResultService.Request()
    request.goal_id.uuid = list(random.choice((bytes(16), random.randbytes(16))))
    return request


@kind("goals that are none", *_services("cancel_goal"))
def _(random: Random, sample: Sample) -> CancelGoal.Request:
    request = CancelGoal.Request()
    # No zero id with a stamp: it means every goal until then.
    request.goal_info.goal_id.uuid = list(random.randbytes(16))
    request.goal_info.stamp = random.choice((Header(), odd_header(random))).stamp
    return request


@kind("one id for two goals", *_services("send_goal"))
def _(random: Random, sample: Sample) -> Any:
    request = _services("send_goal")[sample.input].Impl.SendGoalService.Request()
    request.goal_id.uuid = [random.randrange(4)] * 16
    if sample.input.startswith("watch"):
        request.goal.timeout = SOON
    return request
