#!/usr/bin/python
"""Ansible module: suspend and resume processes of groups, or freeze them, through the controller."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_processes
short_description: Suspend or resume processes of groups of ControllerASG
description:
  - Holds processes of a group back, for a time or until they are resumed, as EC2 Auto Scaling's SuspendProcesses does.
  - Without O(processes) a group is frozen. Nothing is launched or terminated then, and its decisions tell what would
    have been.
author: ControllerASG's founders (@controller-asg)
options:
  state:
    description: V(suspended) holds the processes back, V(resumed) lets them go on.
    type: str
    choices: [suspended, resumed]
    required: true
  group:
    description: The group. All groups without it; with O(state=suspended) those too that are applied later.
    type: str
    default: ""
    aliases: [group_name]
  processes:
    description: Which processes. All of them when it is empty.
    type: list
    elements: str
    choices:
      - Launch
      - Terminate
      - HealthCheck
      - ReplaceUnhealthy
      - AZRebalance
      - InstanceRefresh
      - AlarmNotification
      - ScheduledActions
      - ScaleOut
      - ScaleIn
    default: []
  seconds:
    description:
      - With O(state=suspended), after how long they resume by themselves. Neither this nor O(until), and they don't.
      - It begins anew at every run, which is a change.
    type: float
  until:
    description: With O(state=suspended), when they resume by themselves, in ISO 8601 with a time zone.
    type: str
  reason:
    description: Why. It is shown wherever the group is.
    type: str
    default: ""
  actor:
    description: Who or what asks. It is shown with the reason.
    type: str
    default: ansible
extends_documentation_fragment: controller_asg
attributes:
  check_mode:
    description: Can run in check mode and return what would change.
    support: full
  diff_mode:
    description: Returns the suspended processes of each group, before and after.
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
- name: Nothing is launched or terminated during the migration, for two hours at the most
  asg_processes:
    state: suspended
    seconds: 7200
    reason: migration of the database

- name: Let everything go on
  asg_processes:
    state: resumed

- name: Keep the policies of one group from scaling in until the evening
  asg_processes:
    state: suspended
    group: web
    processes: [ScaleIn]
    until: "2028-03-01T20:00:00+01:00"
"""

RETURN = r"""
changed_groups:
  description: The groups in which something changed, or would.
  returned: success
  type: list
  elements: str
  sample: [web]
errors:
  description: Why the controller refused.
  returned: failure
  type: list
  elements: dict
  contains:
    where:
      description: The group or option.
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
from ansible.module_utils.controller_asg import (
    CONNECTION_ARGUMENTS,
    Controller,
    admin_pb2,
    controller_of,
    refuse,
    time_option,
)

PROCESSES = [
    "Launch",
    "Terminate",
    "HealthCheck",
    "ReplaceUnhealthy",
    "AZRebalance",
    "InstanceRefresh",
    "AlarmNotification",
    "ScheduledActions",
    "ScaleOut",
    "ScaleIn",
]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["suspended", "resumed"], "required": True},
    "group": {"type": "str", "default": "", "aliases": ["group_name"]},
    "processes": {"type": "list", "elements": "str", "choices": PROCESSES, "default": []},
    "seconds": {"type": "float"},
    "until": {"type": "str"},
    "reason": {"type": "str", "default": ""},
    "actor": {"type": "str", "default": "ansible"},
    **CONNECTION_ARGUMENTS,
}


def main() -> None:
    """Ask the controller for it; in check mode for what would change."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS, supports_check_mode=True, mutually_exclusive=[("seconds", "until")]
    )
    for option in ("seconds", "until"):
        if module.params["state"] == "resumed" and module.params[option] is not None:
            refuse(module, option, "has no meaning with state=resumed", "leave it out")
    with controller_of(module) as controller:
        before = suspended(module, controller)
        changed = (
            suspend(module, controller)
            if module.params["state"] == "suspended"
            else resume(module, controller)
        )
        after = dict(before)
        for name in changed:
            named = module.params["processes"] or PROCESSES
            others = [each for each in before.get(name, []) if each not in named]
            after[name] = sorted([*others, *named] if module.params["state"] == "suspended" else others)
    module.exit_json(changed=bool(changed), changed_groups=changed, diff={"before": before, "after": after})


def suspended(module: AnsibleModule, controller: Controller) -> dict[str, list[str]]:
    """The suspended processes of each group that is meant."""
    groups = controller.ListGroups(admin_pb2.ListGroupsRequest(name=module.params["group"])).groups
    return {each.name: sorted(held.process for held in each.suspended_processes) for each in groups}


def suspend(module: AnsibleModule, controller: Controller) -> list[str]:
    """Hold them back; returns the groups in which that changes something."""
    params = module.params
    request = admin_pb2.SuspendProcessesRequest(
        group=params["group"],
        processes=params["processes"],
        reason=params["reason"],
        seconds=params["seconds"],
        actor=params["actor"],
        validate_only=module.check_mode,
    )
    if (until := time_option(module, "until")) is not None:
        request.until.FromDatetime(until)
    return list(controller.SuspendProcesses(request).changed_groups)


def resume(module: AnsibleModule, controller: Controller) -> list[str]:
    """Let them go on; returns the groups in which something was held."""
    request = admin_pb2.ResumeProcessesRequest(
        group=module.params["group"],
        processes=module.params["processes"],
        validate_only=module.check_mode,
    )
    return list(controller.ResumeProcesses(request).changed_groups)


if __name__ == "__main__":
    main()
