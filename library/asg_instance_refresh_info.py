#!/usr/bin/python
"""Ansible module: read the last instance refresh of a group."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_instance_refresh_info
short_description: Read the last instance refresh of a group of ControllerASG
description:
  - Returns the refresh that is under way, or the last that ended, with the progress of each instance.
author: ControllerASG's founders (@controller-asg)
options:
  group:
    description: The group.
    type: str
    required: true
    aliases: [name, group_name]
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
  - module: asg_instance_refresh
"""

EXAMPLES = r"""
- name: Read how far the refresh is
  asg_instance_refresh_info:
    group: web
  register: web
"""

RETURN = r"""
instance_refresh:
  description: The last instance refresh of the group.
  returned: success; null where there was none
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
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.controller_asg import CONNECTION_ARGUMENTS, controller_of, refresh_of

ARGUMENTS: dict[str, dict[str, Any]] = {
    "group": {"type": "str", "required": True, "aliases": ["name", "group_name"]},
    **CONNECTION_ARGUMENTS,
}


def main() -> None:
    """Ask the controller, and return what it says."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    with controller_of(module) as controller:
        refresh = refresh_of(controller, module.params["group"])
    module.exit_json(changed=False, instance_refresh=refresh)


if __name__ == "__main__":
    main()
