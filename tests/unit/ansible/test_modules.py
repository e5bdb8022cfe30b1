"""The modules against an AdminService of the tests' own: what they send and return, and what check mode leaves be."""

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from admin_double import AdminDouble
from module_process import PROJECT, Run

from asg.admin.v1 import admin_pb2 as pb

pytestmark = pytest.mark.process

MODULES = sorted(path.stem for path in (PROJECT / "library").glob("*.py"))
WEB = {"min_size": 2, "max_size": 5, "launch": {"image": {"name": "ours"}}}


def sent(controller: AdminDouble) -> list[str]:
    return [name for name, _ in controller.calls]


def constants(name: str) -> dict[str, str]:
    tree = ast.parse((PROJECT / "library" / f"{name}.py").read_text())
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The argument spec of a module by its name."""
    import ansible.module_utils

    path = [*ansible.module_utils.__path__, str(PROJECT / "module_utils")]
    monkeypatch.setattr(ansible.module_utils, "__path__", path)

    def load(name: str) -> dict[str, Any]:
        spec = importlib.util.spec_from_file_location(f"library_{name}", PROJECT / "library" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loaded: dict[str, Any] = module.ARGUMENTS
        return loaded

    return load


@pytest.mark.parametrize("name", MODULES)
def test_documentation_and_argument_spec_say_the_same(name: str, arguments: Any) -> None:
    document = yaml.safe_load(constants(name)["DOCUMENTATION"])
    options = dict(document["options"])
    if document.get("extends_documentation_fragment") == "controller_asg":
        options |= fragment_options()
    documented = {key: shape(option, "suboptions") for key, option in options.items()}
    assert documented == {key: shape(option, "options") for key, option in arguments(name).items()}


def fragment_options() -> dict[str, Any]:
    tree = ast.parse((PROJECT / "module_utils/doc_fragments/controller_asg.py").read_text())
    (fragment,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    (text,) = (
        node.value.value
        for node in fragment.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    )
    options: dict[str, Any] = yaml.safe_load(text)["options"]
    return options


def shape(option: dict[str, Any], below: str) -> dict[str, Any]:
    kept = {
        key: option[key]
        for key in ("type", "default", "choices", "elements", "required", "aliases")
        if key in option
    }
    if below in option:
        kept["below"] = {key: shape(each, below) for key, each in option[below].items()}
    return kept


@pytest.mark.parametrize("name", MODULES)
def test_examples_and_returns_are_yaml(name: str) -> None:
    found = constants(name)
    assert all(name in task for task in yaml.safe_load(found["EXAMPLES"]))
    for value in yaml.safe_load(found["RETURN"]).values():
        assert {"description", "returned", "type"} <= value.keys()


def test_a_group_is_applied_with_its_diff_in_the_shape_of_group_vars(
    run: Run, controller: AdminDouble, address: str
) -> None:
    result = run("asg_group", address=address, name="web", spec=WEB)
    assert result["changed"]
    assert controller.groups["web"]["max_size"] == 5
    assert result["diff"]["before"] == ""
    assert yaml.safe_load(result["diff"]["after"]) == {"asg_groups": {"web": WEB}}
    assert result["groups"][0]["version"] == 1
    assert result["warnings"] == ["asg_groups.web: is odd; look"]


def test_a_second_run_changes_nothing(run: Run, controller: AdminDouble, address: str) -> None:
    run("asg_group", address=address, name="web", spec=WEB)
    result = run("asg_group", address=address, name="web", spec=WEB)
    assert not result["changed"]
    assert result["diff"]["before"] == result["diff"]["after"]


def test_check_mode_asks_the_same_call_and_changes_nothing(
    run: Run, controller: AdminDouble, address: str
) -> None:
    result = run("asg_group", _check=True, address=address, name="web", spec=WEB, wait=True)
    assert result["changed"]
    assert sent(controller) == ["ApplyGroups"]
    assert controller.calls[0][1].validate_only
    assert controller.groups == {}


def test_check_mode_tells_what_both_documents_would_have_done_yesterday(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.groups["web"] = {**WEB, "min_size": 1}
    controller.yesterday = pb.Yesterday(
        before=pb.Outcome(instance_hours=24.04, under_percent=3.0, changes=7),
        after=pb.Outcome(instance_hours=48, under_percent=0.126, changes=3),
    )
    checked = run("asg_group", _check=True, address=address, groups={"web": WEB})
    assert checked["groups"][0]["yesterday"] == {
        "before": {"instance_hours": 24.0, "under_percent": 3.0, "changes": 7},
        "after": {"instance_hours": 48.0, "under_percent": 0.13, "changes": 3},
    }
    line = (
        "# yesterday web would have paid {} instance-hours, been short {} % of the time"
        " and changed its size {} times"
    )
    assert line.format("24.0", "3.0", 7) in checked["diff"]["before"].splitlines()
    assert line.format("48.0", "0.13", 3) in checked["diff"]["after"].splitlines()
    applied = run("asg_group", address=address, groups={"web": WEB})
    assert "yesterday" not in applied["groups"][0]
    assert "yesterday" not in applied["diff"]["after"]


def test_every_fault_of_the_documents_comes_back_with_its_place(
    run: Run, controller: AdminDouble, address: str
) -> None:
    wrong = {**WEB, "max_size": 1}
    result = run("asg_group", address=address, groups={"web": wrong, "api": wrong}, source="groups.yml")
    assert result["failed"]
    assert [each["where"] for each in result["errors"]] == [
        "groups.yml: asg_groups.web.max_size",
        "groups.yml: asg_groups.api.max_size",
    ]
    assert result["msg"].splitlines()[0] == "groups.yml: asg_groups.web.max_size: is below min_size; raise it"


def test_a_fault_of_the_defaults_is_told_there(run: Run, controller: AdminDouble, address: str) -> None:
    groups = {"web": {"min_size": 2}, "api": {"min_size": 2, "max_size": 1}}
    result = run("asg_group", address=address, groups=groups, defaults={"max_size": 1}, source="groups.yml")
    assert [each["where"] for each in result["errors"]] == [
        "asg_group_defaults.max_size (beneath asg_groups.web)",
        "groups.yml: asg_groups.api.max_size",
    ]
    defaults = {"launch": {"image": {"id": "x"}, "tags": {"a": 3}}}
    groups = {"web": {"launch": {"tags": {"b": 3}}}, "api": {"launch": {"image": {"id": "x"}}}}
    checked = run("asg_groups_check", groups=groups, defaults=defaults)
    assert [each["where"] for each in checked["errors"]] == [
        "asg_group_defaults.launch.image.id (beneath asg_groups.web)",
        "asg_group_defaults.launch.tags[a] (beneath asg_groups.web)",
        "asg_groups.web.launch.tags[b]",
        "asg_groups.api.launch.image.id",
        "asg_group_defaults.launch.tags[a] (beneath asg_groups.api)",
    ]
    assert (
        checked["msg"].splitlines()[0].startswith("asg_group_defaults.launch.image.id (beneath asg_groups.")
    )


def test_defaults_lie_beneath_the_documents_and_an_image_is_taken_whole(
    run: Run, controller: AdminDouble, address: str
) -> None:
    defaults = {"launch": {"image": {"name": "ours"}, "key_pair": "k"}}
    groups = {
        "web": {"min_size": 1, "max_size": 2},
        "own": {"min_size": 1, "max_size": 2, "launch": {"image": {"id": "ami-1"}}},
    }
    run("asg_group", address=address, groups=groups, defaults=defaults)
    assert controller.groups["web"]["launch"] == {"image": {"name": "ours"}, "key_pair": "k"}
    assert controller.groups["own"]["launch"] == {"image": {"id": "ami-1"}, "key_pair": "k"}


def test_a_group_that_left_the_file_is_kept_and_named_in_a_warning(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.groups["old"] = WEB
    result = run("asg_group", address=address, groups={"web": WEB})
    assert any("the group old" in warning for warning in result["warnings"])
    assert "old" in controller.groups


def test_waiting_ends_when_min_size_is_in_service(run: Run, controller: AdminDouble, address: str) -> None:
    controller.instances = {f"i-{number}": ("web", "InService", False) for number in range(2)}
    result = run("asg_group", address=address, name="web", spec=WEB, wait=True)
    assert result["groups"][0]["instance_counts"] == {"InService": 2}


def test_waiting_in_vain_fails_with_the_last_activitys_cause(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.conditions = [("LaunchesFailing", "3 in a row")]
    result = run("asg_group", address=address, name="web", spec=WEB, wait=True, wait_timeout=1)
    assert result["failed"]
    assert "InvalidAMIID.NotFound" in result["msg"]
    assert "LaunchesFailing: 3 in a row" in result["msg"]


def test_a_failed_wait_tells_what_was_applied(run: Run, controller: AdminDouble, address: str) -> None:
    result = run("asg_group", address=address, name="web", spec=WEB, wait=True, wait_timeout=0)
    assert (result["failed"], result["changed"], result["groups"][0]["name"]) == (True, True, "web")
    assert yaml.safe_load(result["diff"]["after"]) == {"asg_groups": {"web": WEB}}


def test_nobody_waits_while_launch_is_suspended_unless_enough_are_on_their_way(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.suspended = {"Launch"}
    controller.instances["i-1"] = ("web", "InService", False)
    controller.open_activities = [pb.Activity(group="web", kind="launch")]
    result = run("asg_group", address=address, name="web", spec=WEB, wait=True, wait_timeout=50)
    assert "has 1 InService, min_size is 2 and Launch is suspended" in result["msg"]
    assert result["errors"][0]["mend"] == "controller-asg resume web Launch"
    asked = [request.open_only for name, request in controller.calls if name == "ListActivities"]
    assert asked == [True, True, False]
    controller.instances["i-2"] = ("web", "Pending", False)
    result = run("asg_group", address=address, name="web", spec=WEB, wait=True, wait_timeout=0)
    assert "within the time given" in result["msg"]


def test_a_group_that_is_deleted_meanwhile_is_not_waited_for(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.looks_until_gone = 2
    result = run("asg_group", address=address, name="web", spec=WEB, wait=True)
    assert result["msg"] == (
        "asg_groups.web: was deleted while its instances were waited for; apply it again"
    )


def test_deleting_with_wait_waits_until_ec2_has_the_end_of_the_instances(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.groups["web"] = WEB
    controller.open_activities = [pb.Activity(group="web", kind="terminate", instance_count=3)] * 2
    arguments = {"address": address, "name": "web", "state": "absent", "force": True, "wait": True}
    late = run("asg_group", wait_timeout=0, **arguments)
    assert (late["failed"], late["changed"]) == (True, True)
    assert "is deleted, and EC2 has not yet taken the end of 6 instances" in late["msg"]
    assert not run("asg_group", **arguments)["changed"]
    assert sent(controller).count("ListActivities") == 3


@pytest.mark.parametrize(
    ("module", "wrong", "said"),
    [
        (
            "asg_group",
            {"name": "web", "state": "absent", "spec": WEB},
            "spec: has no meaning with state=absent",
        ),
        (
            "asg_group",
            {"name": "web", "spec": WEB, "force": True},
            "force: has no meaning with state=present",
        ),
        ("asg_group", {"name": "web"}, "spec: is missing"),
        ("asg_group_info", {"timeout": 0}, "timeout: 0 is no such time"),
        ("asg_group_info", {"timeout": -1}, "timeout: -1 is no such time"),
        (
            "asg_activity_info",
            {"limit": 5_000_000_000},
            "limit: 5000000000 is no such number; write 1 to 1000",
        ),
        (
            "asg_lifecycle_action",
            {"state": "heartbeat", "instance_id": "i-1"},
            "parameters are required together: instance_id, lifecycle_hook_name",
        ),
        (
            "asg_lifecycle_action",
            {"state": "heartbeat", "lifecycle_action_token": ""},
            "lifecycle_action_token: is missing",
        ),
        ("asg_group", {"groups": {}, "state": "absent"}, "name: is missing"),
        ("asg_processes", {"state": "resumed", "seconds": 60}, "seconds: has no meaning with state=resumed"),
        (
            "asg_processes",
            {"state": "resumed", "until": "2099-03-01T14:00:00Z"},
            "until: has no meaning with state=resumed",
        ),
    ],
)
def test_an_option_without_meaning_is_refused(
    run: Run, controller: AdminDouble, address: str, module: str, wrong: dict[str, Any], said: str
) -> None:
    result = run(module, address=address, **wrong)
    assert (result["failed"], result["msg"].startswith(said)) == (True, True)
    assert sent(controller) == []


def test_deleting_a_group_with_instances_wants_force(run: Run, controller: AdminDouble, address: str) -> None:
    controller.groups["web"] = WEB
    controller.instances["i-1"] = ("web", "InService", False)
    assert run("asg_group", address=address, name="web", state="absent")["failed"]
    checked = run("asg_group", _check=True, address=address, name="web", state="absent", force=True)
    assert checked["changed"]
    assert "web" in controller.groups
    assert run("asg_group", address=address, name="web", state="absent", force=True)["changed"]
    assert not run("asg_group", address=address, name="web", state="absent")["changed"]


def test_groups_are_read_with_their_instances(run: Run, controller: AdminDouble, address: str) -> None:
    controller.groups["web"] = WEB
    controller.instances["i-1"] = ("web", "InService", False)
    result = run("asg_group_info", address=address, instances=True)
    assert result["summary"] == "1 group, 2 of 2 in service"
    (group,) = result["groups"]
    assert group["instances"][0]["metrics"] == {"cpu_percent": 12.5}
    assert group["instances"][0]["silent_seconds"] is None
    assert run("asg_group_info", address=address, name="api")["groups"] == []


def test_an_answer_of_many_instances_is_taken(run: Run, controller: AdminDouble, address: str) -> None:
    controller.summary = "x" * 5_000_000
    assert run("asg_group_info", address=address)["summary"] == controller.summary


def test_what_is_told_of_groups_instances_and_refreshes_is_what_the_documentation_lists(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.groups["web"], controller.refreshes = {**WEB, "max_hourly_cost": 0.5}, ["Successful"]
    waiting(controller)
    told = run("asg_group_info", address=address, instances=True)
    assert told["groups"][0]["max_hourly_cost"] == 0.5
    documented = yaml.safe_load(constants("asg_group_info")["RETURN"])
    assert documented.keys() <= told.keys()
    assert_documented(told["groups"][0], documented["groups"])
    for name in ("asg_instance_refresh_info", "asg_instance_refresh"):
        documented = yaml.safe_load(constants(name)["RETURN"])
        told = run(name, address=address, group="web")
        assert_documented(told["instance_refresh"], documented["instance_refresh"])


def assert_documented(told: dict[str, Any], documented: dict[str, Any]) -> None:
    """The same keys, also below where the documentation lists some and anything is told."""
    assert told.keys() == documented["contains"].keys()
    for key, below in documented["contains"].items():
        if "contains" in below and told[key]:
            assert_documented(told[key][0], below)


def test_activities_and_decisions_are_read(run: Run, controller: AdminDouble, address: str) -> None:
    result = run("asg_activity_info", address=address, group="web", decisions=True, limit=3)
    assert result["activities"][0]["status_message"] == "InvalidAMIID.NotFound"
    assert result["decisions"][0]["votes"] == [
        {"policy": "cpu", "capacity": None, "reason": "no sample", "observed": False}
    ]
    assert controller.calls[0][1].limit == 3


def test_a_launch_raises_desired_capacity_inside_of_the_bounds(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.groups["web"], controller.desired["web"] = WEB, 2
    checked = run("asg_instance", _check=True, address=address, state="launched", group="web", count=2)
    assert (checked["changed"], checked["desired_capacity"], controller.desired["web"]) == (True, 4, 2)
    for check in (True, False):
        beyond = run("asg_instance", _check=check, address=address, state="launched", group="web", count=4)
        assert beyond["msg"] == "groups.web: 6 would be above max_size"
    assert run("asg_instance", address=address, state="launched", group="web")["desired_capacity"] == 3


def test_one_wrong_id_terminates_nothing(run: Run, controller: AdminDouble, address: str) -> None:
    controller.instances["i-1"] = ("web", "InService", False)
    result = run("asg_instance", address=address, state="terminated", instance_ids=["i-1", "i-2"])
    assert result["errors"][0]["where"] == "i-2"
    assert "TerminateInstance" not in sent(controller)


@pytest.mark.parametrize("check", [True, False])
def test_one_that_the_controller_refuses_leaves_the_others_alone(
    run: Run, controller: AdminDouble, address: str, check: bool
) -> None:
    controller.instances = {
        each: ("web", state, False)
        for each, state in (("i-1", "InService"), ("i-2", "Detaching"), ("i-3", "InService"))
    }
    arguments = {"address": address, "state": "terminated", "instance_ids": ["i-1", "i-2", "i-3"]}
    result = run("asg_instance", _check=check, **arguments)
    assert result["errors"][0]["what"] == "is being detached"
    assert [state for _, state, _ in controller.instances.values()] == ["InService", "Detaching", "InService"]


def test_a_failure_tells_what_was_terminated_before_it(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.instances = dict.fromkeys(("i-1", "i-2"), ("web", "InService", False))
    controller.detached_by_the_way = ["i-2"]
    result = run("asg_instance", address=address, state="terminated", instance_ids=["i-1", "i-2"])
    assert (result["failed"], result["changed"], result["changed_instance_ids"]) == (True, True, ["i-1"])
    assert result["diff"]["after"] == {"i-1": "Terminating", "i-2": "InService"}


def test_an_instance_that_is_leaving_is_no_change(run: Run, controller: AdminDouble, address: str) -> None:
    controller.instances["i-1"] = ("web", "InService", False)
    arguments = {"address": address, "state": "terminated", "instance_ids": ["i-1"]}
    assert run("asg_instance", _check=True, **arguments)["changed_instance_ids"] == ["i-1"]
    assert controller.instances["i-1"][1] == "InService"
    assert run("asg_instance", **arguments)["changed"]
    assert not run("asg_instance", **arguments)["changed"]


def test_an_instance_is_marked_once_and_the_mark_taken_back(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.instances["i-1"] = ("web", "InService", False)
    arguments = {"address": address, "state": "unhealthy", "instance_ids": ["i-1"], "actor": "balancer"}
    checked = run("asg_instance", _check=True, **arguments)
    assert (checked["changed_instance_ids"], controller.unhealthy) == (["i-1"], set())
    assert checked["diff"] == {
        "before": {"i-1": "Healthy"},
        "after": {"i-1": "Unhealthy: marked unhealthy by balancer"},
    }
    done = run("asg_instance", **arguments)
    assert (done["diff"], controller.unhealthy) == (checked["diff"], {"i-1"})
    assert not run("asg_instance", **arguments)["changed"]
    assert run("asg_instance", **{**arguments, "state": "healthy"})["changed"]
    assert not run("asg_instance", **{**arguments, "state": "healthy"})["changed"]


def test_one_on_its_way_out_keeps_the_others_from_being_marked(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.instances = {"i-1": ("web", "InService", False), "i-2": ("web", "Terminating", False)}
    arguments = {"address": address, "state": "unhealthy", "instance_ids": ["i-1", "i-2"]}
    for check in (True, False):
        assert "is on its way out" in run("asg_instance", _check=check, **arguments)["msg"]
    assert controller.unhealthy == set()


def test_protection_is_set_once(run: Run, controller: AdminDouble, address: str) -> None:
    controller.instances["i-1"] = ("web", "InService", False)
    arguments = {"address": address, "state": "protected", "instance_ids": ["i-1"]}
    checked = run("asg_instance", _check=True, **arguments)
    assert checked["diff"]["before"] == {"i-1": {"protected_from_scale_in": False}}
    assert not controller.instances["i-1"][2]
    done = run("asg_instance", **arguments)
    assert (done["changed"], done["diff"]) == (True, checked["diff"])
    assert not run("asg_instance", **arguments)["changed"]


def test_a_new_reason_or_end_of_a_protection_is_shown_beside_the_old_one(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.instances["i-1"] = ("web", "InService", True)
    controller.holds["i-1"] = pb.Hold(owner="anna", reason="a job")
    arguments = {
        "address": address,
        "state": "protected",
        "instance_ids": ["i-1"],
        "reason": "two jobs",
        "until": "2099-03-01T14:00:00+01:00",
    }
    kept = {"protected_from_scale_in": True}
    for check in (True, False):
        result = run("asg_instance", _check=check, **arguments)
        assert result["diff"] == {
            "before": {"i-1": {**kept, "owner": "anna", "reason": "a job", "until": None}},
            "after": {
                "i-1": {**kept, "owner": "ansible", "reason": "two jobs", "until": "2099-03-01T13:00:00Z"}
            },
        }
    again = run("asg_instance", **arguments)
    assert (again["changed"], again["diff"]["before"]) == (False, again["diff"]["after"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"until": "0001-01-01T00:00:00+14:00"}, "until: 0001-01-01T00:00:00+14:00 is no time with a zone"),
        ({"until": "2099-03-01T14:00:00"}, "is no time with a zone"),
        ({"state": "standby", "seconds": 60}, "seconds: has no meaning with state=standby"),
        (
            {"state": "launched", "group": "web", "count": 5_000_000_000},
            "count: 5000000000 is no such number",
        ),
        ({"instance_ids": []}, "instance_ids: are missing"),
    ],
)
def test_what_makes_no_sense_of_instances_is_one_clear_error(
    run: Run, controller: AdminDouble, address: str, wrong: dict[str, Any], said: str
) -> None:
    right = {"state": "protected", "instance_ids": ["i-1"]}
    assert said in run("asg_instance", address=address, **{**right, **wrong})["msg"]
    assert sent(controller) == []


def test_a_refresh_is_started_once_and_followed_to_its_end(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.groups["web"] = WEB
    checked = run("asg_instance_refresh", _check=True, address=address, group="web")
    assert (checked["changed"], checked["instance_refresh"], controller.refreshes) == (True, None, [])
    assert controller.calls[-1][1].validate_only
    preferences = {"min_healthy_percentage": 100, "checkpoint_percentages": [50, 100]}
    preferences |= {"instance_warmup_seconds": 2.5}
    result = run("asg_instance_refresh", address=address, group="web", preferences=preferences)
    assert (result["changed"], result["instance_refresh"]["status"]) == (True, "Successful")
    assert json.loads(controller.calls[-1][1].preferences_json) == preferences
    skipped = run("asg_instance_refresh", address=address, group="web", preferences={"skip_matching": True})
    assert not skipped["changed"]
    info = run("asg_instance_refresh_info", address=address, group="web")
    assert info["instance_refresh"]["instances"][0]["progress"] == "Outdated"


def test_one_that_is_under_way_is_followed_and_its_failure_told(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.groups["web"], controller.refreshes = WEB, ["InProgress", "InProgress"]
    controller.refresh_ends = "InProgress"
    given_up = run("asg_instance_refresh", address=address, group="web", wait_timeout=0)
    assert "is InProgress, 40 %, and goes on" in given_up["msg"]
    assert sent(controller) == []
    controller.refresh_ends = "RollbackFailed"
    failed = run("asg_instance_refresh", address=address, group="web", state="rolled_back")
    assert failed["msg"] == "the instance refresh of web ended RollbackFailed: 3 in a row"
    assert failed["instance_refresh"]["percentage_complete"] == 40


def test_a_refresh_that_can_not_be_followed_was_started_all_the_same(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.groups["web"], controller.looks_until_gone = WEB, 1
    failed = run("asg_instance_refresh", address=address, group="web")
    assert (failed["failed"], failed["changed"]) == (True, True)


def test_who_waits_for_one_refresh_does_not_follow_the_next(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.groups["web"], controller.refreshes = WEB, ["InProgress"]
    controller.refresh_ids, controller.refresh_ends = ["r-1", "r-1", "r-2"], "InProgress"
    failed = run("asg_instance_refresh", address=address, group="web")
    assert "the instance refresh of web is another one than r-1, which it followed" in failed["msg"]


def test_protection_has_an_end_and_a_reason(run: Run, controller: AdminDouble, address: str) -> None:
    controller.instances["i-1"] = ("web", "InService", False)
    run("asg_instance", address=address, state="protected", instance_ids=["i-1"], seconds=60, reason="a job")
    request = controller.calls[0][1]
    assert (request.seconds, request.reason, request.HasField("until")) == (60, "a job", False)


@pytest.mark.parametrize(
    ("state", "before", "after"),
    [
        ("standby", "InService", "Standby"),
        ("in_service", "Standby", "InService"),
        ("detached", "InService", ""),
    ],
)
def test_an_instance_is_moved_once(
    run: Run, controller: AdminDouble, address: str, state: str, before: str, after: str
) -> None:
    controller.instances["i-1"] = ("web", before, False)
    arguments = {"address": address, "state": state, "instance_ids": ["i-1"]}
    checked = run("asg_instance", _check=True, **arguments)
    assert checked["diff"] == {"before": {"i-1": before}, "after": {"i-1": after}}
    assert controller.instances["i-1"][1] == before
    assert run("asg_instance", **arguments)["changed_instance_ids"] == ["i-1"]
    assert not run("asg_instance", **arguments)["changed"]


def test_an_instance_of_no_group_is_attached_and_is_no_change_to_detach(
    run: Run, controller: AdminDouble, address: str
) -> None:
    assert not run("asg_instance", address=address, state="detached", instance_ids=["i-1"])["changed"]
    arguments = {"address": address, "state": "attached", "group": "web", "instance_ids": ["i-1"]}
    assert run("asg_instance", _check=True, **arguments)["changed"]
    assert run("asg_instance", **arguments)["desired_capacity"] == 3
    assert not run("asg_instance", **arguments)["changed"]
    assert sent(controller) == ["AttachInstances"] * 3


def test_processes_are_suspended_and_resumed_once(run: Run, controller: AdminDouble, address: str) -> None:
    controller.groups["web"] = WEB
    arguments = {
        "address": address,
        "group": "web",
        "processes": ["Launch"],
        "state": "suspended",
        "until": "2099-03-01T14:00:00+01:00",
        "reason": "migration",
    }
    checked = run("asg_processes", _check=True, **arguments)
    assert checked["diff"] == {"before": {"web": []}, "after": {"web": ["Launch"]}}
    assert controller.suspended == set()
    assert run("asg_processes", **arguments)["changed_groups"] == ["web"]
    assert controller.calls[-1][1].until.ToJsonString() == "2099-03-01T13:00:00Z"
    assert not run("asg_processes", **arguments)["changed"]
    resumed = run("asg_processes", address=address, state="resumed")
    assert resumed["diff"] == {"before": {"web": ["Launch"]}, "after": {"web": []}}
    assert not run("asg_processes", address=address, state="resumed")["changed"]
    wrong = run("asg_processes", **{**arguments, "until": "noon"})
    assert wrong["msg"].startswith("until: noon is no time with a zone")
    beyond = run("asg_processes", **{**arguments, "until": "0001-01-01T00:00:00+14:00"})
    assert "is no time with a zone" in beyond["msg"]


def test_a_controller_that_does_not_answer_is_said_plainly(run: Run, tmp_path: Path) -> None:
    result = run("asg_group_info", address=f"unix://{tmp_path}/nobody.sock", timeout=2)
    assert result["failed"]
    assert result["errors"][0]["what"] == "the controller does not answer"


def test_a_controller_that_answers_too_late_is_said_plainly(
    run: Run, controller: AdminDouble, address: str
) -> None:
    controller.silent.clear()
    (error,) = run("asg_group_info", address=address, timeout=0.2)["errors"]
    controller.silent.set()
    assert (error["where"], error["what"]) == (address, "gave no answer within 0.2 s")
    assert error["mend"].startswith("look at `systemctl status controller-asg`")


def test_groups_are_checked_without_a_controller(run: Run) -> None:
    document = {"min_size": 4, "max_size": 2, "launch": {"image": {"name": "ours"}}}
    result = run("asg_groups_check", groups={"web": document}, source="groups.yml")
    assert result["failed"]
    assert result["errors"][0]["where"] == "groups.yml: asg_groups.web.max_size"
    assert run("asg_groups_check", groups={"web": WEB})["groups"] == ["web"]


CONFIGURE = {"instance_id": "i-1", "lifecycle_hook_name": "configure"}


def waiting(controller: AdminDouble) -> None:
    controller.instances["i-1"] = ("web", "Pending:Wait", False)
    hook = pb.LifecycleAction(lifecycle_hook_name="configure", lifecycle_action_token="t-1")
    controller.actions = [("i-1", hook)]


def test_a_lifecycle_hook_is_completed_and_check_mode_only_looks(
    run: Run, controller: AdminDouble, address: str
) -> None:
    waiting(controller)
    wanted = {"address": address, "lifecycle_action_result": "CONTINUE", **CONFIGURE}
    checked = run("asg_lifecycle_action", _check=True, **wanted)
    assert (checked["changed"], sent(controller)) == (True, [])
    result = run("asg_lifecycle_action", **wanted)
    assert result["diff"] == checked["diff"]
    assert result["diff"]["after"]["i-1 configure"]["lifecycle_action_result"] == "CONTINUE"
    run("asg_lifecycle_action", address=address, state="heartbeat", lifecycle_action_token="t-1")
    assert sent(controller) == ["CompleteLifecycleAction", "RecordLifecycleActionHeartbeat"]
    assert controller.calls[0][1].actor == "ansible"


def test_a_lifecycle_hook_that_is_not_open_fails_in_check_mode_too(
    run: Run, controller: AdminDouble, address: str
) -> None:
    waiting(controller)
    wanted = {"address": address, "state": "heartbeat", "lifecycle_action_token": "t-2"}
    for check in (True, False):
        result = run("asg_lifecycle_action", _check=check, **wanted)
        assert result["errors"][0]["what"] == "no such lifecycle hook is open"
    assert sent(controller) == []
