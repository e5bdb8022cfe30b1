"""Which open lifecycle hook somebody means, by its token or by instance and name."""

from dataclasses import dataclass

from controller_asg.engine.memory import Memory
from controller_asg.model.errors import Fault, NotFoundError, SpecError
from controller_asg.model.instance import Instance
from controller_asg.model.lifecycle_hook import ActionResult, OpenHook


@dataclass(frozen=True, slots=True)
class LifecycleAction:
    """`token`, or `instance_id` and `hook`; what is not given is ""."""

    instance_id: str = ""
    hook: str = ""
    token: str = ""


def find(memory: Memory, meant: LifecycleAction) -> tuple[Instance, OpenHook]:
    """The instance and its hook. Raises SpecError where it is not named, NotFoundError where none is open."""
    if not meant.token and not (meant.instance_id and meant.hook):
        mend = "give lifecycle_action_token, or instance_id and lifecycle_hook_name"
        raise SpecError((Fault("lifecycle_action", "is not named", mend),))
    instances = [memory.instance(meant.instance_id)] if meant.instance_id else memory.instances.values()
    for instance in instances:
        for hook in instance.hooks:
            if (
                not hook.result
                and meant.token in ("", hook.token)
                and (meant.hook in ("", hook.name) or bool(meant.token))
            ):
                return instance, hook
    name = meant.token or meant.hook
    raise NotFoundError(
        f"no lifecycle hook {name} is open",
        meant.instance_id or "lifecycle_action",
        "see `controller-asg instances --json`; it was completed, or its timeout is over",
    )


def checked(result: str) -> ActionResult:
    """Raises SpecError."""
    try:
        return ActionResult(result)
    except ValueError as error:
        fault = Fault("lifecycle_action_result", f"is {result[:40]!r}", "write CONTINUE or ABANDON")
        raise SpecError((fault,)) from error
