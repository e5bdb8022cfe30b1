#!/usr/bin/python
"""Ansible module: complete a lifecycle hook that an instance waits for, or record its heartbeat, by the controller."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_lifecycle_action
short_description: Complete a lifecycle hook of ControllerASG, or record its heartbeat
description:
  - An instance in C(Pending:Wait) or C(Terminating:Wait) waits until its lifecycle hooks are completed.
  - A hook that is not open is an error, as in EC2.
author: ControllerASG's founders (@controller-asg)
options:
  state:
    description:
      - V(completed) ends the hook with O(lifecycle_action_result).
      - V(heartbeat) lets its heartbeat timeout count from now.
    type: str
    choices: [completed, heartbeat]
    default: completed
  lifecycle_action_result:
    description:
      - With V(ABANDON) an instance that is launched is terminated, and the other hooks of one that is terminated are
        left out.
      - Required with O(state=completed).
    type: str
    choices: [CONTINUE, ABANDON]
  lifecycle_action_token:
    description: The hook of one instance, as C(controller-asg instances --json) shows it.
    type: str
  instance_id:
    description: The instance, with O(lifecycle_hook_name) in place of O(lifecycle_action_token).
    type: str
  lifecycle_hook_name:
    description: The hook's name in the group's document.
    type: str
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
    description: Returns the hook's result, or when its timeout ends, before and after.
    support: full
  platform:
    description: The controller's machine.
    platforms: posix
    support: full
seealso:
  - module: asg_instance
"""

EXAMPLES = r"""
- name: The new instance is configured and may serve
  asg_lifecycle_action:
    instance_id: i-0123456789abcdef0
    lifecycle_hook_name: configure
    lifecycle_action_result: CONTINUE

- name: The backup of the instance that leaves takes longer
  asg_lifecycle_action:
    state: heartbeat
    lifecycle_action_token: 1d0b3f52-2f5f-5c8e-9f3e-2f1f6f1f6a55
"""

RETURN = r"""
instance_id:
  description: The instance that waits for the hook.
  returned: success
  type: str
  sample: i-0123456789abcdef0
lifecycle_hook_name:
  description: The hook.
  returned: success
  type: str
  sample: configure
errors:
  description: Why the controller refused.
  returned: failure
  type: list
  elements: dict
  contains:
    where:
      description: The instance, or the option.
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
)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["completed", "heartbeat"], "default": "completed"},
    "lifecycle_action_result": {"type": "str", "choices": ["CONTINUE", "ABANDON"]},
    "lifecycle_action_token": {"type": "str"},
    "instance_id": {"type": "str"},
    "lifecycle_hook_name": {"type": "str"},
    "actor": {"type": "str", "default": "ansible"},
    **CONNECTION_ARGUMENTS,
}
NAMES = ("instance_id", "lifecycle_hook_name", "lifecycle_action_token")


def main() -> None:
    """Give the order; in check mode only look for the hook and say what the order would change."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_if=[("state", "completed", ("lifecycle_action_result",))],
        required_together=[("instance_id", "lifecycle_hook_name")],
    )
    named = {name: module.params[name] or "" for name in NAMES}
    with controller_of(module) as controller:
        instance_id, hook = find(module, controller, *named.values())
        before = {"lifecycle_action_result": "", "until": hook.until.ToJsonString()}
        if module.params["state"] == "completed":
            after = {**before, "lifecycle_action_result": module.params["lifecycle_action_result"]}
            request = admin_pb2.CompleteLifecycleActionRequest(
                **named,
                lifecycle_action_result=module.params["lifecycle_action_result"],
                actor=module.params["actor"],
            )
            order = controller.CompleteLifecycleAction
        else:
            after = {**before, "until": "its whole timeout from now"}
            request = admin_pb2.RecordLifecycleActionHeartbeatRequest(**named)
            order = controller.RecordLifecycleActionHeartbeat
        if not module.check_mode:
            order(request)
    key = f"{instance_id} {hook.lifecycle_hook_name}"
    module.exit_json(
        changed=True,
        instance_id=instance_id,
        lifecycle_hook_name=hook.lifecycle_hook_name,
        diff={"before": {key: before}, "after": {key: after}},
    )


def find(
    module: AnsibleModule, controller: Controller, instance_id: str, name: str, token: str
) -> tuple[str, Any]:
    """The instance's id and its open hook; ends the module where none is meant."""
    if not token and not (instance_id and name):
        refuse(module, "lifecycle_action_token", "is missing", "or give instance_id and lifecycle_hook_name")
    for instance in controller.ListInstances(admin_pb2.ListInstancesRequest()).instances:
        for hook in instance.lifecycle_actions:
            if hook.lifecycle_action_result or instance_id not in ("", instance.instance_id):
                continue
            if hook.lifecycle_action_token == token or (not token and hook.lifecycle_hook_name == name):
                return instance.instance_id, hook
    refuse(
        module, instance_id or token, "no such lifecycle hook is open", "look at `controller-asg instances`"
    )


if __name__ == "__main__":
    main()
