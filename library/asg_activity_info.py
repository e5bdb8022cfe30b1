#!/usr/bin/python
"""Ansible module: read what the controller did with its groups, and why."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_activity_info
short_description: Read scaling activities and decisions of ControllerASG
description:
  - Returns scaling activities, newest first, and the decisions of a group when they are asked for.
author: ControllerASG's founders (@controller-asg)
options:
  group:
    description: The group. Activities of all groups when it is left out.
    type: str
    aliases: [group_name]
  open_only:
    description: Whether to return only activities that are in progress.
    type: bool
    default: false
  decisions:
    description: Whether to return the decisions too, also those that changed nothing. Wants O(group).
    type: bool
    default: false
  limit:
    description: The most activities, and the most decisions, to return; 1 to 1000.
    type: int
    default: 50
extends_documentation_fragment: controller_asg
attributes:
  check_mode:
    description: Can run in check mode, for it changes nothing.
    support: full
  diff_mode:
    description: It changes nothing, so there is no difference to return.
    support: none
  platform:
    description: The controller's machine.
    platforms: posix
    support: full
seealso:
  - module: asg_group_info
"""

EXAMPLES = r"""
- name: Read what goes on
  asg_activity_info:
    open_only: true

- name: Read why a group has its size
  asg_activity_info:
    group: web
    decisions: true
    limit: 10
  register: history
"""

RETURN = r"""
activities:
  description: Scaling activities, newest first.
  returned: success
  type: list
  elements: dict
  contains:
    activity_id:
      description: Its id, which is EC2's client token too.
      type: str
    group:
      description: The group.
      type: str
    kind:
      description: launch or terminate.
      type: str
    status:
      description: EC2 Auto Scaling's code.
      type: str
      sample: Successful
    cause:
      description: Why it was started.
      type: str
    status_message:
      description: How it goes, or why it failed.
      type: str
    instance_count:
      description: How many instances it is about.
      type: int
    instance_ids:
      description: Which, as far as they are known.
      type: list
      elements: str
    started_at:
      description: In UTC.
      type: str
    ended_at:
      description: In UTC; null while it is in progress.
      type: str
    decision_id:
      description: The decision that started it.
      type: int
    details:
      description: What machines said, for example the end of the console.
      type: str
decisions:
  description: The group's decisions, newest first.
  returned: when O(decisions=true)
  type: list
  elements: dict
  contains:
    decision_id:
      description: Its id.
      type: int
    group:
      description: The group.
      type: str
    first_at:
      description: When it was made, in UTC.
      type: str
    last_at:
      description: When it was made the last time in a row, in UTC.
      type: str
    count:
      description: How often in a row.
      type: int
    desired_before:
      description: Desired capacity before.
      type: int
    desired_after:
      description: Desired capacity after.
      type: int
    votes:
      description: What each policy voted, with C(policy), C(capacity) (null when it abstained), C(reason) and
        C(observed) (it only observes, and was not counted).
      type: list
      elements: dict
    steps:
      description: Bounds and guards that changed the wish, each with C(name), C(before), C(after) and C(reason).
      type: list
      elements: dict
    actions:
      description: What was started.
      type: list
      elements: str
    summary:
      description: One line for people.
      type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.controller_asg import (
    CONNECTION_ARGUMENTS,
    activity_result,
    admin_pb2,
    controller_of,
    decision_result,
    refuse,
)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "group": {"type": "str", "aliases": ["group_name"]},
    "open_only": {"type": "bool", "default": False},
    "decisions": {"type": "bool", "default": False},
    "limit": {"type": "int", "default": 50},
    **CONNECTION_ARGUMENTS,
}
LARGEST_LIMIT = 1_000  # entries that the controller answers with


def main() -> None:
    """Ask for the activities, and for the decisions when they are wanted."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS, supports_check_mode=True, required_if=[("decisions", True, ("group",))]
    )
    group, limit = module.params["group"] or "", module.params["limit"]
    if not 1 <= limit <= LARGEST_LIMIT:
        refuse(module, "limit", f"{limit} is no such number", f"write 1 to {LARGEST_LIMIT}")
    with controller_of(module) as controller:
        request = admin_pb2.ListActivitiesRequest(
            group=group, limit=limit, open_only=module.params["open_only"]
        )
        result: dict[str, Any] = {
            "activities": [activity_result(each) for each in controller.ListActivities(request).activities]
        }
        if module.params["decisions"]:
            answer = controller.ListDecisions(admin_pb2.ListDecisionsRequest(group=group, limit=limit))
            result["decisions"] = [decision_result(each) for each in answer.decisions]
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
