#!/usr/bin/python
"""Ansible module: read auto scaling groups, and their instances, from the controller."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_group_info
short_description: Read auto scaling groups of ControllerASG
description:
  - Returns the controller's groups, each with its document, sizes, conditions and last decision.
author: ControllerASG's founders (@controller-asg)
options:
  name:
    description: The group. All groups when it is left out; an unknown name gives an empty list.
    type: str
    aliases: [group_name]
  instances:
    description: Whether to return each group's instances too.
    type: bool
    default: false
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
  - module: asg_group
  - module: asg_activity_info
"""

EXAMPLES = r"""
- name: Read every group
  asg_group_info:
  register: fleet

- name: Read one group with its instances
  asg_group_info:
    name: web
    instances: true
  register: web
"""

RETURN = r"""
summary:
  description: The controller in one line.
  returned: success
  type: str
  sample: 2 groups, 5 of 5 in service
hourly_cost:
  description: Of all groups in USD, whichever are returned; what has no price counts nothing.
  returned: success
  type: float
max_hourly_cost:
  description: The ceiling on it; null when there is none.
  returned: success
  type: float
groups:
  description: The groups, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The group.
      type: str
      sample: web
    version:
      description: Counts up with each change of the document.
      type: int
    launch_version:
      description: Names what a new instance is launched from.
      type: str
    spec:
      description: The document with all defaults.
      type: dict
    min_size:
      description: The smallest size now, by the document or a scheduled action.
      type: int
    max_size:
      description: The largest size now.
      type: int
    desired_capacity:
      description: The size the controller wants now.
      type: int
    instance_counts:
      description: Instances by lifecycle state.
      type: dict
      sample: {InService: 3, Pending: 1}
    conditions:
      description: What an operator should know, each with C(kind), C(message) and C(since).
      type: list
      elements: dict
    outdated_instance_ids:
      description: Instances whose launch parameters differ from the document's.
      type: list
      elements: str
    last_decision:
      description: The last decision's one line.
      type: str
    last_decision_at:
      description: When it was made, in UTC; null when there is none.
      type: str
    scheduled_in_force:
      description: Scheduled actions whose bounds hold, in the form of RV(groups[].next_scheduled); the latest last.
      type: list
      elements: dict
    next_scheduled:
      description: The next five times of scheduled actions, the earliest first.
      type: list
      elements: dict
      contains:
        action:
          description: The scheduled action.
          type: str
          sample: morning
        at:
          description: When it is due, in UTC.
          type: str
        until:
          description: When its bounds end by themselves, in UTC; null when they don't.
          type: str
        min_size:
          description: What it sets; null when it leaves that as it is. Likewise C(max_size) and C(desired_capacity).
          type: int
        max_size:
          description: See C(min_size).
          type: int
        desired_capacity:
          description: See C(min_size).
          type: int
        time_zone:
          description: Where its times are local.
          type: str
          sample: Europe/Berlin
    suspended_processes:
      description: What is held back.
      type: list
      elements: dict
      contains:
        process:
          description: The process.
          type: str
          sample: Launch
        owner:
          description: Who asked for it.
          type: str
        reason:
          description: Why.
          type: str
        since:
          description: Since when, in UTC.
          type: str
        until:
          description: When it ends by itself, in UTC; null when it does not.
          type: str
        everywhere:
          description: Whether all groups are held, and those that are still to come.
          type: bool
    hourly_cost:
      description: >-
        In USD, of all instances that were asked for and are not on their way out; what has no price counts nothing.
      type: float
    max_hourly_cost:
      description: The document's ceiling on it; null when it has none.
      type: float
    instances:
      description: The group's instances.
      returned: when O(instances=true)
      type: list
      elements: dict
      contains:
        instance_id:
          description: EC2's id.
          type: str
          sample: i-0123456789abcdef0
        group:
          description: The group.
          type: str
        lifecycle_state:
          description: EC2 Auto Scaling's name.
          type: str
          sample: InService
        health:
          description: Healthy, Suspect (a witness is missing) or Unhealthy.
          type: str
        health_reason:
          description: What the health was concluded from.
          type: str
        zone:
          description: The availability zone.
          type: str
        instance_type:
          description: The instance type.
          type: str
        private_ip:
          description: The private address.
          type: str
        launch_version:
          description: What it was launched from.
          type: str
        outdated:
          description: Whether that differs from the group's now.
          type: bool
        protected_from_scale_in:
          description: Whether scaling in leaves it alone.
          type: bool
        launched_at:
          description: When EC2 was asked for it, in UTC.
          type: str
        in_service_at:
          description: When it came into service, in UTC; null when it has not.
          type: str
        metrics:
          description: The newest values by metric name.
          type: dict
        silent_seconds:
          description: Since its agent was last heard; null when never.
          type: float
        ec2_state:
          description: EC2's own state.
          type: str
        activity_id:
          description: The scaling activity that launched it.
          type: str
        busy:
          description:
            - What its agent says that it works on, each with C(owner), C(reason), C(until) and
              C(protect_from_scale_in). C(until) is null when its owner ends it.
          type: list
          elements: dict
        leaving:
          description: For what it leaves, C(scale_in), C(unhealthy), C(order) or C(replaced). Empty while it stays.
          type: str
        lifecycle_actions:
          description: The lifecycle hooks that were opened on it.
          type: list
          elements: dict
          contains:
            lifecycle_hook_name:
              description: The hook.
              type: str
            lifecycle_action_token:
              description: Names this opening of the hook, for M(asg_lifecycle_action).
              type: str
            transition:
              description: launch or terminate.
              type: str
            opened_at:
              description: In UTC.
              type: str
            until:
              description: When its default result counts, unless its heartbeat is recorded before.
              type: str
            lifecycle_action_result:
              description: CONTINUE or ABANDON; empty while it is open.
              type: str
            ended:
              description: By what it ended; empty while it is open.
              type: str
            command:
              description: The file that the agent runs; empty when somebody else completes it.
              type: str
            notification_metadata:
              description: The document's.
              type: str
        market:
          description: on_demand or spot.
          type: str
        protection:
          description:
            - Who set its scale-in protection, why and until when, in the form of RV(groups[].suspended_processes).
            - Null where it has none, or has it by the group's document.
          type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.controller_asg import (
    CONNECTION_ARGUMENTS,
    admin_pb2,
    controller_of,
    group_result,
    instance_result,
)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "aliases": ["group_name"]},
    "instances": {"type": "bool", "default": False},
    **CONNECTION_ARGUMENTS,
}


def main() -> None:
    """Ask for the groups, and for all instances in one further call when they are wanted."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    name = module.params["name"]
    with controller_of(module) as controller:
        status = controller.GetStatus(admin_pb2.GetStatusRequest())
        answer = controller.ListGroups(admin_pb2.ListGroupsRequest())
        groups = [group_result(each) for each in answer.groups if name in (None, each.name)]
        if module.params["instances"]:
            instances = controller.ListInstances(admin_pb2.ListInstancesRequest()).instances
            for group in groups:
                group["instances"] = [
                    instance_result(each) for each in instances if each.group == group["name"]
                ]
    module.exit_json(
        changed=False,
        summary=status.summary,
        hourly_cost=answer.hourly_cost,
        max_hourly_cost=answer.max_hourly_cost if answer.HasField("max_hourly_cost") else None,
        groups=groups,
    )


if __name__ == "__main__":
    main()
