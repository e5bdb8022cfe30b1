#!/usr/bin/python
"""Ansible module: launch, terminate, protect and move instances of a group, through the controller."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_instance
short_description: Launch, terminate, protect or move instances of a group of ControllerASG
description:
  - Orders the controller to change a group by hand, inside of the group's bounds.
  - The order is in the group's decisions, with O(actor).
author: ControllerASG's founders (@controller-asg)
options:
  state:
    description:
      - V(launched) raises the desired capacity of O(group) by O(count). It does so at every run.
      - V(terminated) ends the instances O(instance_ids). One that is on its way out already is no change, an id that is
        no instance of a group is an error, and then nothing is touched.
      - V(protected) keeps scaling in from choosing the instances O(instance_ids).
      - V(unprotected) lets it choose them again.
      - V(standby) takes the instances O(instance_ids) out of service. They stay members of their group, and are neither
        judged nor terminated.
      - V(in_service) puts those on standby back into service. Desired capacity rises by as many.
      - V(detached) takes the instances O(instance_ids) out of their group; they run on. One that is in no group is no
        change.
      - V(attached) takes running instances of no group, whose agents are set up, into O(group). Desired capacity rises
        by as many.
    type: str
    choices: [launched, terminated, protected, unprotected, standby, in_service, detached, attached]
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
      - It begins anew at every run, which is a change.
    type: float
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
    description: Returns desired capacity, or each instance's protection or lifecycle state, before and after.
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
  returned: when O(state) is not V(launched)
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

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.controller_asg import CONNECTION_ARGUMENTS, Controller, admin_pb2, controller_of

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {
        "type": "str",
        "choices": [
            "launched",
            "terminated",
            "protected",
            "unprotected",
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
    "reason": {"type": "str", "default": ""},
    "actor": {"type": "str", "default": "ansible"},
    **CONNECTION_ARGUMENTS,
}
LEAVING = ("Terminating", "Terminated")


def main() -> None:
    """Give the order; in check mode read the state and say what the order would change."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_if=[("state", "launched", ("group",)), ("state", "attached", ("group",))],
    )
    state = module.params["state"]
    if state != "launched" and not module.params["instance_ids"]:
        module.fail_json(msg=f"state={state} wants instance_ids")
    if module.params["count"] < 1:
        module.fail_json(msg=f"count: {module.params['count']} is below 1")
    with controller_of(module) as controller:
        if state == "launched":
            result = launch(module, controller)
        elif state == "terminated":
            result = terminate(module, controller)
        elif state in ("protected", "unprotected"):
            result = protect(module, controller, protected=state == "protected")
        else:
            result = move(module, controller)
    module.exit_json(**result)


def launch(module: AnsibleModule, controller: Controller) -> dict[str, Any]:
    """Raise desired capacity by `count`."""
    name, count = module.params["group"], module.params["count"]
    group = controller.ListGroups(admin_pb2.ListGroupsRequest(name=name)).groups[0]
    before = group.desired_capacity
    if not module.check_mode:
        request = admin_pb2.LaunchInstancesRequest(group=name, count=count, actor=module.params["actor"])
        after = controller.LaunchInstances(request).desired_capacity
    elif before + count > group.max_size:
        refuse(module, name, f"{before + count} is above max_size {group.max_size}", "raise max_size")
    else:
        after = before + count
    return {
        "changed": True,
        "desired_capacity": after,
        "diff": {
            "before": {name: {"desired_capacity": before}},
            "after": {name: {"desired_capacity": after}},
        },
    }


def terminate(module: AnsibleModule, controller: Controller) -> dict[str, Any]:
    """End the instances. All ids are looked up first, so that one wrong id touches no other instance."""
    states = lifecycle_states(module, controller)
    changed = [each for each, state in states.items() if not state.startswith(LEAVING)]
    if not module.check_mode:
        answers = {
            each: controller.TerminateInstance(
                admin_pb2.TerminateInstanceRequest(
                    instance_id=each,
                    should_decrement_desired_capacity=module.params["should_decrement_desired_capacity"],
                    actor=module.params["actor"],
                )
            )
            for each in changed
        }
        changed = [each for each, answer in answers.items() if answer.changed]
    after = {each: "Terminating" if each in changed else state for each, state in states.items()}
    return {
        "changed": bool(changed),
        "changed_instance_ids": changed,
        "diff": {"before": states, "after": after},
    }


def protect(module: AnsibleModule, controller: Controller, protected: bool) -> dict[str, Any]:
    """Protect the instances from scaling in, or no longer."""
    ids = module.params["instance_ids"]
    answer = controller.SetInstanceProtection(
        admin_pb2.SetInstanceProtectionRequest(
            instance_ids=ids,
            protected_from_scale_in=protected,
            actor=module.params["actor"],
            validate_only=module.check_mode,
            seconds=module.params["seconds"] if protected else None,
            reason=module.params["reason"] if protected else "",
        )
    )
    changed = list(answer.changed_instance_ids)
    before = {each: {"protected_from_scale_in": protected != (each in changed)} for each in ids}
    after = {each: {"protected_from_scale_in": protected} for each in ids}
    return {
        "changed": bool(changed),
        "changed_instance_ids": changed,
        "diff": {"before": before, "after": after},
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


def lifecycle_states(module: AnsibleModule, controller: Controller) -> dict[str, str]:
    """The lifecycle state of each of the instances; ends the module when one is in no group."""
    instances = controller.ListInstances(admin_pb2.ListInstancesRequest()).instances
    states = {each.instance_id: each.lifecycle_state for each in instances}
    for each in module.params["instance_ids"]:
        if each not in states:
            refuse(module, each, "is no instance of a group", "look at `controller-asg instances`")
    return {each: states[each] for each in module.params["instance_ids"]}


def refuse(module: AnsibleModule, where: str, what: str, mend: str) -> None:
    """End the module as the controller's own refusal would."""
    module.fail_json(msg=f"{where}: {what}; {mend}", errors=[{"where": where, "what": what, "mend": mend}])


if __name__ == "__main__":
    main()
