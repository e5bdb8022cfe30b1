#!/usr/bin/python
"""Ansible module: make auto scaling groups as their documents say, all of them or none."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_group
short_description: Apply or delete auto scaling groups of ControllerASG
description:
  - Sends the documents of one group or of many to the controller, which validates all of them first and stores all of
    them in one transaction, or none.
  - The documents carry no desired capacity. It belongs to the controller, so applying a document never lowers a group
    that is scaled out.
  - A changed launch parameter replaces no instance. RV(groups[].outdated_instance_ids) names those that differ now.
  - Check mode asks the controller to validate, by the same call, and shows what would change.
author: ControllerASG's founders (@controller-asg)
options:
  name:
    description: The group, when there is one.
    type: str
    aliases: [group_name]
  spec:
    description:
      - The document of the group O(name), with the keys of the reference page C(groups).
      - Keys that are left out get their default, they don't keep their former value.
    type: dict
  groups:
    description:
      - Documents of several groups by the groups' names, applied in one transaction.
      - Groups of the controller that are not named here are left as they are, with a warning.
    type: dict
  defaults:
    description:
      - Laid beneath each document. Mappings are merged key by key; all else of the document replaces the default.
      - C(launch.image) is taken whole from the document or from here, for an image is named by one key only.
      - Messages name a key of these as C(asg_group_defaults), the variable of the project that holds them.
    type: dict
    default: {}
  state:
    description:
      - V(present) applies the documents.
      - V(absent) deletes the group O(name).
    type: str
    choices: [present, absent]
    default: present
  force:
    description:
      - With O(state=absent), terminate the group's instances.
      - Without it a group that has instances is not deleted.
      - Refused with O(state=present).
    type: bool
    default: false
  source:
    description: The file the documents come from. Messages name it.
    type: str
    default: ""
  wait:
    description:
      - With O(state=present), wait until C(min_size) instances of each group that was named are C(InService).
      - With O(state=absent), wait until the controller no longer knows the group, and EC2 has taken the order to
        terminate its instances. EC2 carries it out after that.
      - The wait ends before the time limit when no instance can come, for its launches fail (with the last activity's
        cause) or the process C(Launch) is suspended.
    type: bool
    default: false
  wait_timeout:
    description: The longest wait, in seconds.
    type: int
    default: 300
extends_documentation_fragment: controller_asg
attributes:
  check_mode:
    description: Can run in check mode and return what would change.
    support: full
  diff_mode:
    description: Returns the documents before and after, as YAML in the shape of group_vars.
    support: full
  platform:
    description: The controller's machine.
    platforms: posix
    support: full
seealso:
  - module: asg_group_info
  - module: asg_instance
"""

EXAMPLES = r"""
- name: Apply every group of group_vars
  asg_group:
    groups: "{{ asg_groups }}"
    source: group_vars/all/groups.yml
    wait: true

- name: One group that holds its load at 60 %
  asg_group:
    name: web
    spec:
      min_size: 2
      max_size: 10
      launch:
        image:
          name: controller-asg-agent-*
      policies:
        - type: target_tracking
          metric: cpu_percent
          target: 60

- name: Delete a group, with its instances
  asg_group:
    name: web
    state: absent
    force: true
    wait: true
"""

RETURN = r"""
groups:
  description: What was done, or would be done, with each group, in the documents' order.
  returned: when O(state=present), also when what was waited for did not come
  type: list
  elements: dict
  contains:
    name:
      description: The group.
      type: str
      sample: web
    changed:
      description: Whether its document changed.
      type: bool
    version:
      description: Counts up with each change of the document.
      type: int
      sample: 3
    before:
      description: The former document with all defaults; empty when there was none.
      type: dict
    after:
      description: The document with all defaults.
      type: dict
    outdated_instance_ids:
      description: Instances whose launch parameters differ from the document's now.
      type: list
      elements: str
      sample: [i-0123456789abcdef0]
    yesterday:
      description:
        - What the former document and this one would have done with the group's recorded demand of the last 24 hours.
        - Each of C(before) and C(after) has C(instance_hours), C(under_percent) (of the time with too little capacity)
          and C(changes) of size.
      type: dict
      returned: in check mode, when the document changes, six hours are recorded and all policies go by cpu_percent
      sample:
        before: {instance_hours: 312.4, under_percent: 0.2, changes: 31}
        after: {instance_hours: 286.0, under_percent: 0.9, changes: 44}
    desired_capacity:
      description: The size the controller wants.
      type: int
      returned: when O(wait=true) and not in check mode
    instance_counts:
      description: Instances by lifecycle state.
      type: dict
      returned: when O(wait=true) and not in check mode
      sample: {InService: 2}
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
      sample: 2 is below min_size 4
    mend:
      description: What to do.
      type: str
      sample: raise it to 4 or more, or lower min_size
"""

import json
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.controller_asg import (
    CONNECTION_ARGUMENTS,
    Controller,
    admin_pb2,
    as_group_vars,
    controller_of,
    fault_dict,
    fault_line,
    refuse,
)
from ansible.module_utils.group_documents import complete, true_place

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "aliases": ["group_name"]},
    "spec": {"type": "dict"},
    "groups": {"type": "dict"},
    "defaults": {"type": "dict", "default": {}},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "force": {"type": "bool", "default": False},
    "source": {"type": "str", "default": ""},
    "wait": {"type": "bool", "default": False},
    "wait_timeout": {"type": "int", "default": 300},
    **CONNECTION_ARGUMENTS,
}
POLL_SECONDS = 0.5
# A launch that failed may go well in another zone; one that fails again and again for so long will not by waiting.
FAILING_SECONDS = 20.0
ACTIVITIES_LIMIT = 1_000  # the most that the controller tells at once


class WaitError(Exception):
    """The wait is over without what it waited for; `errors` says why, as a module returns it."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("\n".join(map(fault_line, errors)))
        self.errors = errors


def main() -> None:
    """Apply or delete; in check mode only ask the controller what it would do."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        mutually_exclusive=[("name", "groups")],
        required_one_of=[("name", "groups")],
        required_by={"spec": "name"},
    )
    absent = module.params["state"] == "absent"
    if absent and module.params["name"] is None:
        refuse(module, "name", "is missing, and state=absent wants it", "name the one group that shall go")
    if absent and module.params["spec"] is not None:
        refuse(module, "spec", "has no meaning with state=absent", "leave it out, or write state=present")
    if not absent and module.params["force"]:
        refuse(module, "force", "has no meaning with state=present", "leave it out, or write state=absent")
    if not absent and module.params["name"] is not None and module.params["spec"] is None:
        refuse(module, "spec", "is missing, and state=present with a name wants it", "write the document")
    with controller_of(module, lambda where: written_at(module, where)) as controller:
        try:
            result = delete(module, controller) if absent else apply(module, controller)
        except WaitError as error:
            module.fail_json(msg=str(error), errors=error.errors, **controller.done)
    module.exit_json(**result)


def apply(module: AnsibleModule, controller: Controller) -> dict[str, Any]:
    """Apply the documents, wait when asked to, and return the module's result."""
    name = module.params["name"]
    documents = complete(module.params["defaults"], written(module))
    answer = controller.ApplyGroups(
        admin_pb2.ApplyGroupsRequest(
            documents=[
                admin_pb2.GroupDocument(name=each, document_json=json.dumps(document))
                for each, document in documents.items()
            ],
            validate_only=module.check_mode,
            source=module.params["source"],
        )
    )
    for warning in map(fault_dict, answer.warnings):
        module.warn(fault_line({**warning, "where": written_at(module, warning["where"])}))
    groups = [
        {
            "name": each.name,
            "changed": each.changed,
            "version": each.version,
            "before": json.loads(each.before_json or "{}"),
            "after": json.loads(each.after_json or "{}"),
            "outdated_instance_ids": list(each.outdated_instance_ids),
            **({"yesterday": yesterday_of(each.yesterday)} if each.HasField("yesterday") else {}),
        }
        for each in answer.groups
    ]
    result = {
        "changed": any(each["changed"] for each in groups),
        "groups": groups,
        "diff": {
            "before": as_group_vars({each["name"]: each["before"] for each in groups if each["before"]})
            + yesterday_lines(groups, "before"),
            "after": as_group_vars({each["name"]: each["after"] for each in groups})
            + yesterday_lines(groups, "after"),
            "before_header": "the controller's groups",
            "after_header": module.params["source"] or "the documents",
        },
    }
    controller.done = result
    if name is None:
        warn_of_others(module, controller, set(documents))
    if module.params["wait"] and not module.check_mode:
        seen = wait_for_service(controller, list(documents), module.params["wait_timeout"])
        for each in groups:
            each["desired_capacity"] = seen[each["name"]].desired_capacity
            each["instance_counts"] = dict(seen[each["name"]].instance_counts)
    return result


def written(module: AnsibleModule) -> dict[str, Any]:
    """The documents as the operator wrote them, by the groups' names."""
    name = module.params["name"]
    return {name: module.params["spec"]} if name is not None else module.params["groups"]


def written_at(module: AnsibleModule, where: str) -> str:
    """The operator's own place of what the controller names."""
    return true_place(where, module.params["defaults"], written(module), module.params["source"])


def yesterday_of(yesterday: Any) -> dict[str, dict[str, Any]]:
    """Both rehearsals of the last day, as the module returns them."""
    return {
        which: {
            "instance_hours": round(each.instance_hours, 1),
            "under_percent": round(each.under_percent, 2),
            "changes": each.changes,
        }
        for which, each in (("before", yesterday.before), ("after", yesterday.after))
    }


def yesterday_lines(groups: list[dict[str, Any]], which: str) -> str:
    """A comment for each group that was rehearsed, below its documents."""
    return "".join(
        f"# yesterday {each['name']} would have paid {found['instance_hours']} instance-hours, been short"
        f" {found['under_percent']} % of the time and changed its size {found['changes']} times\n"
        for each in groups
        if "yesterday" in each
        for found in [each["yesterday"][which]]
    )


def warn_of_others(module: AnsibleModule, controller: Controller, documents: set[str]) -> None:
    """A group that was taken out of the file goes on living; its operator should know."""
    known = {group.name for group in controller.ListGroups(admin_pb2.ListGroupsRequest()).groups}
    for name in sorted(known - documents):
        module.warn(
            f"the controller also holds the group {name}, which stands in no document; "
            "delete it with asg_group state=absent when it shall go"
        )


def delete(module: AnsibleModule, controller: Controller) -> dict[str, Any]:
    """Delete the group, wait when asked to, and return the module's result."""
    name = module.params["name"]
    documents = {
        group.name: json.loads(group.document_json or "{}")
        for group in controller.ListGroups(admin_pb2.ListGroupsRequest()).groups
        if group.name == name
    }
    answer = controller.DeleteGroup(
        admin_pb2.DeleteGroupRequest(name=name, force=module.params["force"], validate_only=module.check_mode)
    )
    result = {
        "changed": answer.changed,
        "diff": {"before": as_group_vars(documents), "after": ""},
    }
    controller.done = result
    if module.params["wait"] and not module.check_mode:
        wait_for_absence(controller, name, module.params["wait_timeout"])
    return result


def wait_for_service(controller: Controller, names: list[str], seconds: int) -> dict[str, Any]:
    """The groups by name once min_size instances of each are InService. Raises WaitError."""
    deadline = time.monotonic() + seconds
    failing_since: dict[str, float] = {}
    while True:
        groups = {group.name: group for group in controller.ListGroups(admin_pb2.ListGroupsRequest()).groups}
        gone = [name for name in names if name not in groups]
        if gone:
            what = "was deleted while its instances were waited for"
            raise WaitError(
                [{"where": f"asg_groups.{name}", "what": what, "mend": "apply it again"} for name in gone]
            )
        missing = {
            name: groups[name]
            for name in names
            if groups[name].instance_counts.get("InService", 0) < groups[name].min_size
        }
        if not missing:
            return groups
        held = [group for group in missing.values() if held_back(controller, group)]
        if held:
            raise WaitError(
                [
                    why_not(
                        controller,
                        group,
                        "and Launch is suspended",
                        f"controller-asg resume {group.name} Launch",
                    )
                    for group in held
                ]
            )
        now = time.monotonic()
        for name, group in missing.items():
            if any(condition.kind == "LaunchesFailing" for condition in group.conditions):
                failing_since.setdefault(name, now)
            else:
                failing_since.pop(name, None)
        lost = [missing[name] for name, since in failing_since.items() if now - since >= FAILING_SECONDS]
        if lost:
            raise WaitError([why_not(controller, group, "and its launches fail") for group in lost])
        if now >= deadline:
            raise WaitError(
                [why_not(controller, group, "within the time given") for group in missing.values()]
            )
        time.sleep(POLL_SECONDS)


def held_back(controller: Controller, group: Any) -> bool:
    """Whether no instance can come any more, for Launch is suspended and too few are on their way."""
    if all(each.process != "Launch" for each in group.suspended_processes):
        return False
    # In this order: what these activities bring is counted by then.
    activities = controller.ListActivities(
        admin_pb2.ListActivitiesRequest(group=group.name, open_only=True, limit=ACTIVITIES_LIMIT)
    ).activities
    if any(each.kind in ("launch", "attach") for each in activities):
        return False
    counts = controller.ListGroups(admin_pb2.ListGroupsRequest(name=group.name)).groups[0].instance_counts
    coming = sum(count for state, count in counts.items() if state.startswith(("InService", "Pending")))
    return coming < group.min_size


def why_not(controller: Controller, group: Any, late: str, mend: str = "") -> dict[str, str]:
    """Why a group has not its min_size in service: its counts, its conditions and the last failed activity."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(group.instance_counts.items()))
    reasons = [f"{condition.kind}: {condition.message}" for condition in group.conditions]
    activities = controller.ListActivities(
        admin_pb2.ListActivitiesRequest(group=group.name, limit=10)
    ).activities
    failed = next((each for each in activities if each.status == "Failed"), None)
    if failed is not None:
        reasons.append(f"last failed activity, {failed.cause}: {failed.status_message}")
    elif group.last_decision:
        reasons.append(f"last decision: {group.last_decision}")
    return {
        "where": f"asg_groups.{group.name}",
        "what": f"has {counts or 'no instance'}, min_size is {group.min_size} {late}"
        + "".join(f"; {reason}" for reason in reasons),
        "mend": mend or f"ask `controller-asg why {group.name}` on the controller",
    }


def wait_for_absence(controller: Controller, name: str, seconds: int) -> None:
    """Return once the controller no longer knows the group, and EC2 has its instances' end. Raises WaitError."""
    deadline = time.monotonic() + seconds
    while True:
        known = any(
            group.name == name for group in controller.ListGroups(admin_pb2.ListGroupsRequest()).groups
        )
        request = admin_pb2.ListActivitiesRequest(open_only=True, limit=ACTIVITIES_LIMIT)
        open_ones = [each for each in controller.ListActivities(request).activities if each.group == name]
        if not known and not open_ones:
            return
        if time.monotonic() >= deadline:
            count = sum(each.instance_count for each in open_ones)
            what = (
                "is there again"
                if known
                else f"is deleted, and EC2 has not yet taken the end of {count} instances"
            )
            mend = "see who applies it" if known else "ask `controller-asg doctor` on the controller"
            raise WaitError([{"where": f"asg_groups.{name}", "what": what, "mend": mend}])
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
