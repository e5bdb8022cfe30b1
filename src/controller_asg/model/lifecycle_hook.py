"""Lifecycle hooks: what the operator writes, and what the controller keeps of each that was opened on an instance."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from controller_asg.model.immutable import immutable
from controller_asg.model.scaling_policy import STRICT


class Transition(StrEnum):
    LAUNCH = "launch"
    TERMINATE = "terminate"


class ActionResult(StrEnum):
    """EC2's words for how a lifecycle action ended."""

    CONTINUE = "CONTINUE"
    ABANDON = "ABANDON"


@dataclass(frozen=True, slots=True, config=STRICT)
class LifecycleHook:
    """EC2's lifecycle hook: an instance waits in Pending:Wait or Terminating:Wait until it is completed.

    Completed by `controller-asg complete-lifecycle-action`, the admin API or `/v1`, or by the end of `command`. A hook
    that was opened stays as it was opened, whatever is applied meanwhile. Hooks are open for 48 hours or 100 heartbeat
    timeouts at the most by the clock, whichever is shorter, as in EC2. In heartbeat timeouts only the time counts in
    which the controller watched; they begin anew when it is restarted.

    launch: opened when the agent speaks, before the instance serves. ABANDON terminates the instance, and counts as a
    failed launch. None is opened on an instance that was adopted by its tags: it may have served before, and a hook
    must not take it out of service. terminate: opened once the instance has no work left and is drained. It is
    terminated whatever the result; ABANDON leaves the other hooks out. Opened on an unhealthy instance too, but for
    hooks with a command where its agent is silent, and not on one that EC2 itself says is dead, that never served, or
    whose group is deleted by force.
    """

    # Two hooks of a group need two names. Letters, digits and `- _ /`, 255 at the most, as in EC2.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_/-]{1,255}$")]
    # When it is opened: launch is autoscaling:EC2_INSTANCE_LAUNCHING, terminate autoscaling:EC2_INSTANCE_TERMINATING.
    transition: Literal["launch", "terminate"]
    # A file of the agent's hooks directory, which the agent runs on the instance. Exit code 0 completes the hook with
    # CONTINUE, any other with ABANDON; killed at the heartbeat timeout it ends with default_result. Its output stands
    # in the activity's details. Left out: somebody else completes the hook.
    command: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    # So long after it was opened, or its heartbeat last recorded, default_result ends it. EC2's least is 30: a command
    # on the instance ends within a second, and may be given up on sooner.
    heartbeat_timeout_seconds: Annotated[float, Field(ge=1, le=7200)] = 3600.0
    # What counts at the timeout.
    default_result: Literal["CONTINUE", "ABANDON"] = "ABANDON"
    # Handed to whoever carries the hook out; the command has it in its environment. 4,000 characters at the most, as in
    # EC2; no control characters but tabs and line ends.
    notification_metadata: Annotated[str, Field(max_length=4000)] = ""


@immutable
class OpenHook:
    """A lifecycle hook of one instance, as its document was when it was opened. `result` "" while it is open."""

    name: str
    token: str
    transition: str
    opened_at: datetime
    heartbeat_at: datetime  # the heartbeat timeout counts from here
    heartbeat_timeout_seconds: float
    default_result: str
    command: str
    notification_metadata: str
    ordered_at: datetime | None = None  # when the agent was last asked to run the command
    result: str = ""
    ended: str = ""  # by what: "exit code 0", "by alice", "no result within 30 s"
    output: str = ""  # what the command printed last, 4 KiB at the most
