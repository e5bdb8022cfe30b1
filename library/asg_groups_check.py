#!/usr/bin/python
"""Ansible module: validate group documents on the control machine, before anything is built or changed."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_groups_check
short_description: Validate group documents without a controller
description:
  - Runs the controller's own validation of group documents on the control machine, so that a fault in group_vars stops
    a play before the first change. What only EC2 knows, such as whether an image exists, the controller asks when the
    documents are applied.
author: ControllerASG's founders (@controller-asg)
options:
  groups:
    description: Documents by the groups' names.
    type: dict
    required: true
  defaults:
    description: Laid beneath each document, as by M(asg_group).
    type: dict
    default: {}
  source:
    description: The file the documents come from. Messages name it.
    type: str
    default: ""
requirements:
  - controller-asg in the environment that runs Ansible
attributes:
  check_mode:
    description: Can run in check mode, for it changes nothing.
    support: full
  diff_mode:
    description: It changes nothing, so there is no difference to return.
    support: none
  platform:
    description: The control machine.
    platforms: posix
    support: full
seealso:
  - module: asg_group
"""

EXAMPLES = r"""
- name: Find every fault of the groups
  asg_groups_check:
    groups: "{{ asg_groups }}"
    source: group_vars/all/groups.yml
  delegate_to: localhost
"""

RETURN = r"""
groups:
  description: The groups' names, in the documents' order.
  returned: success
  type: list
  elements: str
  sample: [web]
errors:
  description: Every fault of the documents.
  returned: failure
  type: list
  elements: dict
  contains:
    where:
      description: File and key.
      type: str
      sample: "group_vars/all/groups.yml: asg_groups.web.max_size"
    what:
      description: What is wrong.
      type: str
    mend:
      description: What to do.
      type: str
"""

import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.controller_asg import fault_dict, fault_line
from ansible.module_utils.group_documents import complete, true_place

IMPORT_ERROR: str | None = None
try:
    from controller_asg.model.document import parse_groups
    from controller_asg.model.errors import SpecError
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

ARGUMENTS: dict[str, dict[str, Any]] = {
    "groups": {"type": "dict", "required": True},
    "defaults": {"type": "dict", "default": {}},
    "source": {"type": "str", "default": ""},
}


def main() -> None:
    """Parse the documents, and fail with all that is wrong with them."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    if IMPORT_ERROR is not None:
        module.fail_json(msg=missing_required_lib("controller-asg"), exception=IMPORT_ERROR)
    documents = complete(module.params["defaults"], module.params["groups"])
    try:
        groups = parse_groups(documents, module.params["source"])
    except SpecError as error:
        params = module.params
        errors = [
            fault
            | {"where": true_place(fault["where"], params["defaults"], params["groups"], params["source"])}
            for fault in map(fault_dict, error.faults)
        ]
        module.fail_json(msg="\n".join(map(fault_line, errors)), errors=errors)
    module.exit_json(changed=False, groups=[group.name for group in groups])


if __name__ == "__main__":
    main()
