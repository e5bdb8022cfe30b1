"""What the controller asks of the agent of one instance. An order may be lost with its session: it is given again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drain:
    """Run the drain command; `AgentView.drained` tells its end."""

    timeout_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Resume:
    """The instance serves again: stop the drain command, and run the resume command."""

    reason: str


@dataclass(frozen=True, slots=True)
class RunHook:
    """Run a file of the agent's hooks directory; `AgentView.hooks` tells its end by `token`."""

    token: str
    command: str
    timeout_seconds: float
    transition: str  # launch or terminate
    hook: str
    metadata: str


AgentOrder = Drain | Resume | RunHook
