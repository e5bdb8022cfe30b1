#!/usr/bin/python
"""Ansible module: replace the instances of a group, and follow it to its end."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_instance_refresh
short_description: Replace the instances of a group of ControllerASG a few at a time
description:
  - Starts, cancels or rolls back an instance refresh, which is the controller's own. The module only follows it, so
    that interrupting the play harms nothing, and the next run follows the same refresh.
author: ControllerASG's founders (@controller-asg)
options:
  group:
    description: The group.
    type: str
    required: true
    aliases: [name, group_name]
  state:
    description:
      - V(started) replaces the instances by new ones of the group's launch parameters. Where a refresh is under way
        that one is followed, which is no change. Where O(preferences) skip what matches and nothing is outdated, none
        is started.
      - V(cancelled) ends the refresh where it stands.
      - V(rolled_back) gives the group the launch parameters of before the refresh again, and its instances too.
    type: str
    choices: [started, cancelled, rolled_back]
    default: started
  preferences:
    description: How to replace, with the defaults of EC2's API.
    type: dict
    default: {}
    suboptions:
      min_healthy_percentage:
        description: Of desired capacity. The group's maintenance policy by default, else its C(min_healthy_percentage).
        type: int
      max_healthy_percentage:
        description: Of desired capacity, 100 to 200. The group's maintenance policy by default, else 100.
        type: int
      instance_warmup_seconds:
        description: So long in service a new one counts. The group's C(default_instance_warmup_seconds) by default.
        type: float
      checkpoint_percentages:
        description: Where to stop for O(preferences.checkpoint_delay_seconds), ascending. The refresh ends at the last.
        type: list
        elements: int
      checkpoint_delay_seconds:
        description: At each checkpoint but the last; an hour by default.
        type: int
      bake_time_seconds:
        description: From the last replacement to the end.
        type: int
      skip_matching:
        description: Leave alone what was launched from the present parameters.
        type: bool
      auto_rollback:
        description: Roll back where it would fail.
        type: bool
      scale_in_protected_instances:
        description: What to do with instances protected from scale-in. V(Wait) by default, for an hour.
        type: str
        choices: [Refresh, Ignore, Wait]
      standby_instances:
        description: What to do with instances in Standby. V(Wait) by default, for an hour.
        type: str
        choices: [Terminate, Ignore, Wait]
  wait:
    description: Whether to follow it to its end. The module fails unless that is a success.
    type: bool
    default: true
  wait_timeout:
    description: How many seconds at the most. The refresh goes on when the module gives up.
    type: int
    default: 3600
  actor:
    description: Who or what asks. The decision shows it.
    type: str
    default: ansible
extends_documentation_fragment: controller_asg
attributes:
  check_mode:
    description: Can run in check mode; the controller checks what is asked and starts nothing.
    support: full
  diff_mode:
    description: Returns the status of the refresh before and after.
    support: full
  platform:
    description: The controller's machine.
    platforms: posix
    support: full
seealso:
  - module: asg_instance_refresh_info
  - module: asg_group
"""

EXAMPLES = r"""
- name: Replace what was launched from earlier parameters, and go back if the new image is broken
  asg_instance_refresh:
    group: web
    preferences:
      min_healthy_percentage: 100
      max_healthy_percentage: 120
      skip_matching: true
      auto_rollback: true

- name: Go back to the image of before
  asg_instance_refresh:
    group: web
    state: rolled_back
"""

RETURN = r"""
instance_refresh:
  description: The last instance refresh of the group.
  returned: success, and where it did not succeed
  type: dict
  contains:
    instance_refresh_id:
      description: Its id.
      type: str
    group:
      description: The group.
      type: str
    status:
      description: >-
        EC2 Auto Scaling's V(Pending), V(InProgress), V(Baking), V(Cancelling), V(RollbackInProgress), V(Successful),
        V(Failed), V(Cancelled), V(RollbackSuccessful) or V(RollbackFailed).
      type: str
      sample: InProgress
    status_reason:
      description: Why it failed, or was cancelled or rolled back.
      type: str
    started_at:
      description: When it began.
      type: str
    ended_at:
      description: When it ended; null while it is under way.
      type: str
    percentage_complete:
      description: How much of it is done.
      type: int
      sample: 40
    instances_to_update:
      description: How many are not replaced, or their replacements not ready.
      type: int
    paused:
      description: Whether it is paused.
      type: bool
    checkpoint:
      description: The last checkpoint that was reached, in percent.
      type: int
    launch_version:
      description: The launch version that it goes to.
      type: str
    image_id:
      description: The image that it goes to.
      type: str
    preferences:
      description: Its preferences, with the values of the group where it was started without.
      type: dict
    actor:
      description: Who or what started it.
      type: str
    instances:
      description: How far each instance is.
      type: list
      elements: dict
      contains:
        instance_id:
          description: The instance.
          type: str
        lifecycle_state:
          description: Its lifecycle state.
          type: str
        launch_version:
          description: What it was launched from.
          type: str
        progress:
          description: V(Outdated), V(Waiting), V(Ignored), V(Pending), V(WarmingUp) or V(Ready).
          type: str
errors:
  description: Why the controller refused.
  returned: failure
  type: list
  elements: dict
  contains:
    where:
      description: The group, or the preference.
      type: str
    what:
      description: What is wrong.
      type: str
    mend:
      description: What to do.
      type: str
"""

import json
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.controller_asg import (
    CONNECTION_ARGUMENTS,
    Controller,
    admin_pb2,
    controller_of,
    refresh_of,
)

PREFERENCES: dict[str, dict[str, Any]] = {
    "min_healthy_percentage": {"type": "int"},
    "max_healthy_percentage": {"type": "int"},
    "instance_warmup_seconds": {"type": "float"},
    "checkpoint_percentages": {"type": "list", "elements": "int"},
    "checkpoint_delay_seconds": {"type": "int"},
    "bake_time_seconds": {"type": "int"},
    "skip_matching": {"type": "bool"},
    "auto_rollback": {"type": "bool"},
    "scale_in_protected_instances": {"type": "str", "choices": ["Refresh", "Ignore", "Wait"]},
    "standby_instances": {"type": "str", "choices": ["Terminate", "Ignore", "Wait"]},
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "group": {"type": "str", "required": True, "aliases": ["name", "group_name"]},
    "state": {"type": "str", "choices": ["started", "cancelled", "rolled_back"], "default": "started"},
    "preferences": {"type": "dict", "default": {}, "options": PREFERENCES},
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "int", "default": 3600},
    "actor": {"type": "str", "default": "ansible"},
    **CONNECTION_ARGUMENTS,
}
ENDED = ("Successful", "Failed", "Cancelled", "RollbackSuccessful", "RollbackFailed")
WANTED = {
    "started": ("Successful",),
    "cancelled": ENDED,
    "rolled_back": ("RollbackSuccessful",),
}
LOOK_SECONDS = 2.0


def main() -> None:
    """Give the order, then follow the refresh."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    with controller_of(module) as controller:
        before = refresh_of(controller, module.params["group"])
        changed = order(module, controller, before)
        result = {"changed": changed, "diff": {"before": shown(before), "after": shown(before)}}
        if module.check_mode:
            if changed:
                result["diff"]["after"] = {"status": module.params["state"]}
            module.exit_json(**result, instance_refresh=before)
        controller.done = result
        after = followed(module, controller, result)
    result["diff"]["after"] = shown(after)
    module.exit_json(**result, instance_refresh=after)


def order(module: AnsibleModule, controller: Controller, before: dict[str, Any] | None) -> bool:
    """Ask for the state; in check mode the controller only checks. Returns whether that changes anything."""
    asked = {
        "group": module.params["group"],
        "actor": module.params["actor"],
        "validate_only": module.check_mode,
    }
    if module.params["state"] == "cancelled":
        changed: bool = controller.CancelInstanceRefresh(
            admin_pb2.CancelInstanceRefreshRequest(**asked)
        ).changed
        return changed
    if module.params["state"] == "rolled_back":
        request = admin_pb2.RollbackInstanceRefreshRequest(**asked)
        changed = controller.RollbackInstanceRefresh(request).changed
        return changed
    if before is not None and before["status"] not in ENDED:
        return False
    preferences = {key: value for key, value in module.params["preferences"].items() if value is not None}
    if preferences.get("skip_matching") and not outdated(controller, module.params["group"]):
        return False
    request = admin_pb2.StartInstanceRefreshRequest(preferences_json=json.dumps(preferences), **asked)
    controller.StartInstanceRefresh(request)
    return True


def outdated(controller: Controller, group: str) -> bool:
    (found,) = controller.ListGroups(admin_pb2.ListGroupsRequest(name=group)).groups
    return bool(found.outdated_instance_ids)


def followed(module: AnsibleModule, controller: Controller, result: dict[str, Any]) -> dict[str, Any] | None:
    """The refresh as it is, or with O(wait) as it ended; fails the module where that is no success."""
    group, state = module.params["group"], module.params["state"]
    until, looked = time.monotonic() + module.params["wait_timeout"], ""
    while True:
        refresh = refresh_of(controller, group)
        if refresh is None or not module.params["wait"]:
            return refresh
        if looked not in ("", refresh["instance_refresh_id"]):
            what = f"is another one than {looked[:8]}, which it followed, and {refresh['status']}"
            fail(module, refresh, what, result)
        if refresh["status"] in ENDED:
            if (result["changed"] or looked) and refresh["status"] not in WANTED[state]:
                fail(module, refresh, f"ended {refresh['status']}", result)
            return refresh
        if time.monotonic() >= until:
            paused = ", paused" if refresh["paused"] else ""
            what = f"is {refresh['status']}, {refresh['percentage_complete']} %{paused}, and goes on"
            fail(module, refresh, what + "; nobody waits any longer", result)
        looked = refresh["instance_refresh_id"]
        time.sleep(LOOK_SECONDS)


def fail(module: AnsibleModule, refresh: dict[str, Any], what: str, result: dict[str, Any]) -> None:
    reason = refresh["status_reason"]
    message = f"the instance refresh of {refresh['group']} {what}" + (f": {reason}" if reason else "")
    module.fail_json(msg=message, instance_refresh=refresh, **result)


def shown(refresh: dict[str, Any] | None) -> dict[str, Any]:
    keys = ("instance_refresh_id", "status", "percentage_complete")
    return {key: refresh[key] for key in keys} if refresh is not None else {}


if __name__ == "__main__":
    main()
