#!/usr/bin/python
"""Ansible module: launch, terminate and protect instances of a group, through the controller."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_instance
short_description: Launch, terminate or protect instances of a group of ControllerASG
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
    type: str
    choices: [launched, terminated, protected, unprotected]
    required: true
  group:
    description: The group that gets instances. Required with O(state=launched).
    type: str
    aliases: [group_name]
  count:
    description: How many instances to launch.
    type: int
    default: 1
  instance_ids:
    description: The instances. Required with every other O(state).
    type: list
    elements: str
    default: []
  should_decrement_desired_capacity:
    description:
      - With O(state=terminated), whether the group gets smaller.
      - Otherwise a replacement is launched.
    type: bool
    default: false
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

- name: Keep an instance while someone looks at it
  asg_instance:
    state: protected
    instance_ids: [i-0123456789abcdef0]
    actor: on-call
"""

RETURN = r"""
desired_capacity:
  description: The group's desired capacity afterwards.
  returned: when O(state=launched)
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
        "choices": ["launched", "terminated", "protected", "unprotected"],
        "required": True,
    },
    "group": {"type": "str", "aliases": ["group_name"]},
    "count": {"type": "int", "default": 1},
    "instance_ids": {"type": "list", "elements": "str", "default": []},
    "should_decrement_desired_capacity": {"type": "bool", "default": False},
    "actor": {"type": "str", "default": "ansible"},
    **CONNECTION_ARGUMENTS,
}
LEAVING = ("Terminating", "Terminated")


def main() -> None:
    """Give the order; in check mode read the state and say what the order would change."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS, supports_check_mode=True, required_if=[("state", "launched", ("group",))]
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
        else:
            result = protect(module, controller, protected=state == "protected")
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
