#!/usr/bin/python
"""Ansible module: launch, terminate, protect, judge and move instances of a group, through the controller."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_instance
short_description: Launch, terminate, protect, judge or move instances of a group of ControllerASG
description:
  - Orders the controller to change a group by hand, inside of the group's bounds.
  - The order is in the group's decisions, with O(actor).
author: ControllerASG's founders (@controller-asg)
options:
  state:
    description:
      - V(launched) raises the desired capacity of O(group) by O(count). It does so at every run.
      - V(terminated) ends the instances O(instance_ids). One that is on its way out already is no change. All of them
        are checked first, so where one is refused, for instance an id that is of no group, none is touched.
      - V(protected) keeps scaling in from choosing the instances O(instance_ids).
      - V(unprotected) lets it choose them again.
      - V(unhealthy) marks the instances O(instance_ids), so that each is replaced once its grace period is over, as EC2
        Auto Scaling's SetInstanceHealth does.
      - V(healthy) takes that mark back. What the controller sees itself still counts.
      - V(standby) takes the instances O(instance_ids) out of service. They stay members of their group, and are neither
        judged nor terminated.
      - V(in_service) puts those on standby back into service. Desired capacity rises by as many.
      - V(detached) takes the instances O(instance_ids) out of their group; they run on. One that is in no group is no
        change.
      - V(attached) takes running instances of no group, whose agents are set up, into O(group). Desired capacity rises
        by as many.
    type: str
    choices:
      - launched
      - terminated
      - protected
      - unprotected
      - healthy
      - unhealthy
      - standby
      - in_service
      - detached
      - attached
    required: true
  group:
    description: The group that gets instances. Required with O(state=launched) and O(state=attached).
    type: str
    aliases: [group_name]
  count:
    description: How many instances to launch.
    type: int
    default: 1
  instance_ids:
    description:
      - The instances. Required with every O(state) but V(launched).
      - Up to 20 of one group with V(standby), V(in_service), V(detached) and V(attached).
    type: list
    elements: str
    default: []
  should_decrement_desired_capacity:
    description:
      - With O(state=terminated), O(state=standby) and O(state=detached), whether the group gets smaller.
      - Otherwise a replacement is launched.
    type: bool
    default: false
  seconds:
    description:
      - With O(state=protected), after how long the protection ends by itself.
      - It begins anew at every run, which is a change. O(until) is none at the second.
    type: float
  until:
    description: With O(state=protected), when the protection ends by itself, in ISO 8601 with a time zone.
    type: str
  reason:
    description: With O(state=protected), why. It is shown with the instance.
    type: str
    default: ""
  actor:
    description: Who or what asks. The decision shows it.
    type: str
    default: ansible
extends_documentation_fragment: controller_asg
attributes:
  check_mode:
    description: Can run in check mode and return what would change.
    support: full
  diff_mode:
    description: Returns desired capacity, or each instance's protection, health or lifecycle state, before and after.
    support: full
  platform:
    description: The controller's machine.
    platforms: posix
    support: full
seealso:
  - module: asg_group
  - module: asg_group_info
"""

EXAMPLES = r"""
- name: Two instances more, ahead of the rush
  asg_instance:
    state: launched
    group: web
    count: 2

- name: Replace an instance
  asg_instance:
    state: terminated
    instance_ids: [i-0123456789abcdef0]

- name: The balancer can't reach an instance, so let it be replaced
  asg_instance:
    state: unhealthy
    instance_ids: [i-0123456789abcdef0]
    actor: balancer

- name: Take an instance out of service to look at it, and launch another in its place
  asg_instance:
    state: standby
    instance_ids: [i-0123456789abcdef0]

- name: Put it back
  asg_instance:
    state: in_service
    instance_ids: [i-0123456789abcdef0]

- name: Keep an instance for the next two hours
  asg_instance:
    state: protected
    instance_ids: [i-0123456789abcdef0]
    seconds: 7200
    reason: a long job
    actor: on-call
"""

RETURN = r"""
desired_capacity:
  description: The group's desired capacity afterwards.
  returned:
    when O(state) is V(launched), V(standby), V(in_service), V(detached) or V(attached), and an instance is of a group
  type: int
  sample: 4
changed_instance_ids:
  description: The instances that changed, or would.
  returned: when O(state) is not V(launched), also by a failure where some were terminated or marked before it
  type: list
  elements: str
  sample: [i-0123456789abcdef0]
errors:
  description: Why the controller refused.
  returned: failure
  type: list
  elements: dict
  contains:
    where:
      description: The group or instance.
      type: str
    what:
      description: What is wrong.
      type: str
    mend:
      description: What to do.
      type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.controller_asg import (
    CONNECTION_ARGUMENTS,
    Controller,
    admin_pb2,
    controller_of,
    instance_result,
    refuse,
    time_option,
)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {
        "type": "str",
        "choices": [
            "launched",
            "terminated",
            "protected",
            "unprotected",
            "healthy",
            "unhealthy",
            "standby",
            "in_service",
            "detached",
            "attached",
        ],
        "required": True,
    },
    "group": {"type": "str", "aliases": ["group_name"]},
    "count": {"type": "int", "default": 1},
    "instance_ids": {"type": "list", "elements": "str", "default": []},
    "should_decrement_desired_capacity": {"type": "bool", "default": False},
    "seconds": {"type": "float"},
    "until": {"type": "str"},
    "reason": {"type": "str", "default": ""},
    "actor": {"type": "str", "default": "ansible"},
    **CONNECTION_ARGUMENTS,
}
LARGEST_COUNT = 10_000  # of instances in a group


def main() -> None:
    """Give the order; in check mode the controller only says what it would change."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        mutually_exclusive=[("seconds", "until")],
        required_if=[("state", "launched", ("group",)), ("state", "attached", ("group",))],
    )
    state = module.params["state"]
    if state != "launched" and not module.params["instance_ids"]:
        refuse(module, "instance_ids", "are missing", f"name those that shall be {state}")
    if not 1 <= module.params["count"] <= LARGEST_COUNT:
        refuse(module, "count", f"{module.params['count']} is no such number", f"write 1 to {LARGEST_COUNT}")
    for option in ("seconds", "until"):
        if state != "protected" and module.params[option] is not None:
            refuse(module, option, f"has no meaning with state={state}", "leave it out")
    with controller_of(module) as controller:
        if state == "launched":
            result = launch(module, controller)
        elif state == "terminated":
            result = terminate(module, controller)
        elif state in ("protected", "unprotected"):
            result = protect(module, controller, protected=state == "protected")
        elif state in ("healthy", "unhealthy"):
            result = mark(module, controller, healthy=state == "healthy")
        else:
            result = move(module, controller)
    module.exit_json(**result)


def launch(module: AnsibleModule, controller: Controller) -> dict[str, Any]:
    """Raise desired capacity by `count`."""
    name = module.params["group"]
    before = controller.ListGroups(admin_pb2.ListGroupsRequest(name=name)).groups[0].desired_capacity
    request = admin_pb2.LaunchInstancesRequest(
        group=name,
        count=module.params["count"],
        actor=module.params["actor"],
        validate_only=module.check_mode,
    )
    after = controller.LaunchInstances(request).desired_capacity
    return {
        "changed": True,
        "desired_capacity": after,
        "diff": {
            "before": {name: {"desired_capacity": before}},
            "after": {name: {"desired_capacity": after}},
        },
    }


def terminate(module: AnsibleModule, controller: Controller) -> dict[str, Any]:
    """End the instances."""
    before = {each: found.lifecycle_state for each, found in members(module, controller).items()}

    def ask(instance_id: str, validate_only: bool) -> bool:
        request = admin_pb2.TerminateInstanceRequest(
            instance_id=instance_id,
            should_decrement_desired_capacity=module.params["should_decrement_desired_capacity"],
            actor=module.params["actor"],
            validate_only=validate_only,
        )
        return bool(controller.TerminateInstance(request).changed)

    return one_by_one(module, controller, ask, before, "Terminating")


def mark(module: AnsibleModule, controller: Controller, healthy: bool) -> dict[str, Any]:
    """Say that the instances are unhealthy, or take that back."""
    actor = module.params["actor"]
    before = {
        each: found.health + (f": {found.health_reason}" if found.health_reason else "")
        for each, found in members(module, controller).items()
    }

    def ask(instance_id: str, validate_only: bool) -> bool:
        request = admin_pb2.SetInstanceHealthRequest(
            instance_id=instance_id, healthy=healthy, actor=actor, validate_only=validate_only
        )
        return bool(controller.SetInstanceHealth(request).changed)

    after = "no longer marked unhealthy" if healthy else f"Unhealthy: marked unhealthy by {actor}"
    return one_by_one(module, controller, ask, before, after)


def one_by_one(
    module: AnsibleModule,
    controller: Controller,
    ask: Callable[[str, bool], bool],
    before: dict[str, str],
    after: str,
) -> dict[str, Any]:
    """Order it for each instance of `before`; all are checked first, so that one that is refused touches no other.

    `ask` takes an id and whether to check only, and returns whether that changes anything; `after` is what becomes of
    those that change.
    """

    def result(changed: list[str]) -> dict[str, Any]:
        return {
            "changed": bool(changed),
            "changed_instance_ids": changed,
            "diff": {"before": before, "after": {**before, **dict.fromkeys(changed, after)}},
        }

    changing = [each for each in before if ask(each, True)]
    if module.check_mode:
        return result(changing)
    changed: list[str] = []
    for each in changing:
        controller.done = result(changed)
        if ask(each, False):
            changed.append(each)
    return result(changed)


def protect(module: AnsibleModule, controller: Controller, protected: bool) -> dict[str, Any]:
    """Protect the instances from scaling in, or no longer."""
    params, ids = module.params, module.params["instance_ids"]
    request = admin_pb2.SetInstanceProtectionRequest(
        instance_ids=ids,
        protected_from_scale_in=protected,
        actor=params["actor"],
        validate_only=module.check_mode,
        seconds=params["seconds"],
        reason=params["reason"] if protected else "",
    )
    if (until := time_option(module, "until")) is not None:
        request.until.FromDatetime(until)
    before = protection(module, controller)
    changed = list(controller.SetInstanceProtection(request).changed_instance_ids)
    if module.check_mode:
        after = {**before, **dict.fromkeys(changed, foretold(request))}
    else:
        after = protection(module, controller) if changed else before
    return {
        "changed": bool(changed),
        "changed_instance_ids": changed,
        "diff": {"before": before, "after": after},
    }


def protection(module: AnsibleModule, controller: Controller) -> dict[str, dict[str, Any]]:
    """Whether each of the instances is protected, and by whom, why and until when where somebody set it."""
    found = {}
    for instance_id, instance in members(module, controller).items():
        result = instance_result(instance)
        held = result["protection"] or {}
        found[instance_id] = {
            "protected_from_scale_in": result["protected_from_scale_in"],
            **{key: held[key] for key in ("owner", "reason", "until") if key in held},
        }
    return found


def foretold(request: Any) -> dict[str, Any]:
    """As `protection` will tell it once that is ordered."""
    if not request.protected_from_scale_in:
        return {"protected_from_scale_in": False}
    until = request.until.ToJsonString() if request.HasField("until") else None
    if request.HasField("seconds"):
        until = f"{request.seconds:g} s from then"
    return {
        "protected_from_scale_in": True,
        "owner": request.actor,
        "reason": request.reason,
        "until": until,
    }


def move(module: AnsibleModule, controller: Controller) -> dict[str, Any]:
    """On standby and back, out of a group and into one; in check mode the controller is asked the same."""
    params, state = module.params, module.params["state"]
    listed = controller.ListInstances(admin_pb2.ListInstancesRequest()).instances
    states = {each.instance_id: each.lifecycle_state for each in listed}
    before = {each: states.get(each, "") for each in params["instance_ids"]}
    ids = [each for each, now in before.items() if now or state != "detached"]
    if not ids:
        return {"changed": False, "changed_instance_ids": [], "diff": {"before": before, "after": before}}
    request: dict[str, Any] = {
        "instance_ids": ids,
        "actor": params["actor"],
        "validate_only": module.check_mode,
    }
    decrement = {"should_decrement_desired_capacity": params["should_decrement_desired_capacity"]}
    if state == "standby":
        answer = controller.EnterStandby(admin_pb2.EnterStandbyRequest(**request, **decrement))
    elif state == "in_service":
        answer = controller.ExitStandby(admin_pb2.ExitStandbyRequest(**request))
    elif state == "detached":
        answer = controller.DetachInstances(admin_pb2.DetachInstancesRequest(**request, **decrement))
    else:
        answer = controller.AttachInstances(
            admin_pb2.AttachInstancesRequest(group=params["group"], **request)
        )
    changed = list(answer.changed_instance_ids)
    after = {"standby": "Standby", "in_service": "InService", "detached": "", "attached": "InService"}[state]
    return {
        "changed": bool(changed),
        "changed_instance_ids": changed,
        "desired_capacity": answer.desired_capacity,
        "diff": {"before": before, "after": {**before, **dict.fromkeys(changed, after)}},
    }


def members(module: AnsibleModule, controller: Controller) -> dict[str, Any]:
    """Each of the instances by its id; ends the module when one is in no group."""
    listed = controller.ListInstances(admin_pb2.ListInstancesRequest()).instances
    found = {each.instance_id: each for each in listed}
    for each in module.params["instance_ids"]:
        if each not in found:
            refuse(module, each, "is no instance of a group", "look at `controller-asg instances`")
    return {each: found[each] for each in module.params["instance_ids"]}


if __name__ == "__main__":
    main()
