"""The commands as an operator runs them: a process each, against a real admin server on a socket."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.api.admin_service import build_admin_server
from controller_asg.cli.calls import ANSWER_LIMIT_BYTES
from controller_asg.model.errors import Fault, SpecError, StoreError
from controller_asg.model.hold import Process
from controller_asg.model.instance import Lease
from controller_asg.planner.snapshot import Attach, Detach, EnterStandby, ExitStandby
from tests.fake_controller import HOOK, METRIC_MISSING, A, B, C, FakeController, FakeDaemon

pytestmark = pytest.mark.process

COMMAND = [sys.executable, "-c", "from controller_asg.cli import main; main()"]


@dataclass
class Run:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Command = Callable[..., Awaitable[Run]]


async def run(*arguments: str, **environment: str) -> Run:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LOGNAME": "ann", **environment},
    )
    out, err = await process.communicate()
    return Run(process.returncode, out.decode(), err.decode())


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
async def command(controller: FakeController, daemon: FakeDaemon, tmp_path: Path) -> AsyncIterator[Command]:
    """`await command("kill", A)`: run it at the server of this test."""
    server = build_admin_server(controller, daemon)
    server.listen(tmp_path / "admin.sock", "")
    await server.server.start()

    async def at_server(*arguments: str) -> Run:
        return await run(*arguments, CONTROLLER_ASG_ADDRESS=f"unix:{server.socket}")

    yield at_server
    await server.stop(0)


async def test_status_shows_groups_faults_and_conditions(command, daemon):
    daemon.settings_fault = "log_level: 'loud' is not known"
    shown = await command("status")
    assert shown.code == 0
    assert shown.lines[0].startswith(
        "2 groups, 3 of 3 in service  (version 9.9.9, since 2028-02-28 12:00:00Z"
    )
    assert "the old settings are in force: log_level: 'loud' is not known" in shown.lines[1]
    assert "RequestLimitExceeded" in shown.lines[2]
    assert "nothing is done" in shown.lines[3]
    assert "database or disk is full" in shown.lines[3]
    assert shown.lines[4] == f"! web: {METRIC_MISSING} (MetricMissing)"
    assert shown.lines[6].split()[:4] == ["GROUP", "DESIRED", "MIN", "MAX"]
    assert shown.lines[7].split()[:5] == ["web", "2", "2", "5", "2"]


async def test_an_answer_of_many_instances_is_taken_and_the_limit_holds_the_largest_group(command, daemon):
    daemon.settings_fault = "x" * 5_000_000
    shown = await command("status", "--json")
    assert (shown.code, json.loads(shown.out)["settings_fault"]) == (0, daemon.settings_fault)
    leases = [pb.BusyLease(owner="o" * 64, reason="r" * 256)] * 32
    metrics = {f"app.{number:02}{'n' * 198}": 0.1 for number in range(64)}
    assert pb.Instance(metrics=metrics, busy=leases).ByteSize() * 10_000 < ANSWER_LIMIT_BYTES


async def test_an_empty_address_is_said_plainly():
    shown = await run("status", "--address", "")
    assert (shown.code, shown.err) == (
        2,
        "--address: is empty; write it like unix:/run/controller-asg/admin.sock\n",
    )


async def test_status_as_json_has_the_names_of_the_proto(command):
    shown = json.loads((await command("status", "--json")).out)
    assert (shown["epoch"], shown["cloud_fault"]) == (7, "RequestLimitExceeded")
    assert [each["desired_capacity"] for each in shown["groups"]] == [2, 1]


async def test_groups_and_instances_are_tables_with_whole_ids(command):
    assert [line.split()[0] for line in (await command("groups")).lines] == ["GROUP", "web", "jobs", "in"]
    shown = (await command("instances", "web")).lines
    assert [line.split()[0] for line in shown] == ["INSTANCE", A, B]
    assert "41.2" in shown[1]
    assert "outdated" in shown[1]
    assert "never" in shown[2]
    assert "protected until 2028-02-28 13:00:00Z by anna: a long job; silent for 3 s" in shown[2]


async def test_a_busy_instance_has_a_column_that_says_why_and_an_idle_fleet_has_none(command, controller):
    assert "BUSY" not in (await command("instances", "web")).out
    controller.leases = (Lease("nightly", "a report", 90.0), Lease("shell", "", None, True))
    head, busy, idle = (await command("instances", "web")).lines
    column = head.index("BUSY")
    said = "nightly: a report, until 2028-02-28 12:01:30Z; shell, protected"
    assert busy[column:].startswith(f"{said}  ")
    assert idle[column:].startswith("-  ")


async def test_instances_as_json_has_null_for_an_agent_never_heard(command):
    shown = json.loads((await command("instances", "--json")).out)["instances"]
    assert [each["silent_seconds"] for each in shown] == [0.4, None, None]


async def test_activities_say_how_long_they_took_and_why(command):
    shown = (await command("activities", "web")).lines
    assert shown[1].split() == [*["2028-02-28", "12:00:00Z", "web", "launch", "1", "Successful", "41", "s"], A,
                                *["cpu_percent", "91", "on", "one"]]  # fmt: skip
    assert len((await command("activities", "--open")).lines) == 2


async def test_why_reads_as_sentences(command):
    assert (await command("why", "web")).lines == [
        "web wants 2 (between 2 and 5) and has 2 in service.",
        f"  ! {METRIC_MISSING} (MetricMissing, since 2028-02-28 12:00:00Z)",
        "",
        "2028-02-28 12:00:00Z  web went from 2 to 3 (decided 40 times in 40 s).",
        "  thresholds voted for 6: cpu_percent 91 is above 80",
        "  target_tracking abstained: app.queue: no sample in 10 s",
        "  max_size made 6 into 5: never more than 5",
        "  cooldown held it at 3: 11 s of 30 s are over",
        "  Done: launch 1 in us-east-1a.",
    ]


async def test_schedule_shows_what_holds_and_the_next_times_in_local_time_too(command):
    lines = (await command("schedule", "jobs")).lines
    assert len(lines) == 7
    assert lines[0].split() == ["DUE", "LOCAL", "TIME", "ACTION", "MIN", "MAX", "DESIRED", "UNTIL", "NOTES"]
    assert lines[1].split() == [*["2028-02-28", "07:00:00Z", "Mon", "2028-02-28", "08:00", "Europe/Berlin"],
                                *["morning", "1", "-", "3", "2028-02-28", "17:00:00Z", "in", "force"]]  # fmt: skip
    assert lines[2].startswith("2028-02-29 07:00:00Z  Tue 2028-02-29 08:00 Europe/Berlin  morning")
    shown = json.loads((await command("schedule", "jobs", "--json")).out)
    assert [len(shown["scheduled_in_force"]), len(shown["next_scheduled"])] == [1, 5]
    assert (await command("schedule", "web")).lines == ["web has no scheduled action to come"]


async def test_why_as_json_has_the_conditions_too(command):
    shown = json.loads((await command("why", "web", "--json")).out)
    assert shown["conditions"][0]["kind"] == "MetricMissing"
    assert shown["decisions"][0]["steps"][0] == {
        "name": "max_size",
        "before": 6,
        "after": 5,
        "reason": "never more than 5",
    }


async def test_why_of_a_group_without_decisions_says_so(command, controller):
    controller.decided = []
    assert (await command("why", "jobs")).lines[-1] == "No decision was made yet."


async def test_create_names_who_asked_and_the_new_size(command, controller):
    assert (await command("create", "web")).out == "web grows to 3\n"
    assert controller.orders == [("launch", "web", 1, "ann at the command line")]


async def test_create_needs_the_group_only_where_there_are_several(command, controller):
    shown = await command("create")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == "GROUP: is missing, and there are 2: web, jobs; name one\n"
    del controller.records["jobs"]
    assert (await command("create", "--count", "2")).out == "web grows to 4\n"


async def test_create_at_max_size_fails_with_the_mend(command):
    shown = await command("create", "web", "--count", "9")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == "groups.web: 11 would be above max_size 5; raise max_size\n"


async def test_kill_says_whether_the_group_shrinks_or_replaces(command, controller):
    assert (await command("kill", C)).out == f"{C} is terminated; jobs shrinks to 0\n"
    assert (await command("kill", C)).out == f"{C} was already on its way out\n"
    assert (await command("kill", A)).out == f"{A} is terminated and replaced, as web stays at its min_size\n"
    shown = await command("kill", B, "--replace", "--json")
    assert json.loads(shown.out)["replaced"]
    assert [order[:3] for order in controller.orders] == [
        ("terminate", C, True),
        ("terminate", A, True),
        ("terminate", B, False),
    ]


async def test_kill_of_an_id_that_is_not_ours_is_bad_input(command, controller):
    shown = await command("kill", "i-00000000")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == "instances.i-00000000: is no instance of ours; nothing was touched\n"
    assert controller.orders == []


async def test_set_desired_shows_before_and_after_and_refuses_what_is_outside(command):
    assert (await command("set-desired", "web", "4")).out == "web: 2 → 4\n"
    shown = await command("set-desired", "web", "6")
    assert shown.code == 2
    assert "6 is outside of min_size 2 to max_size 5; write 2 to 5" in shown.err
    shown = await command("set-desired", "web", "many")
    assert shown.code == 2
    assert "Invalid value for 'N'" in shown.err


async def test_protect_and_unprotect_say_what_changed(command, controller):
    assert (await command("protect", A, B)).lines == [f"{A} is protected", f"{B} is already protected"]
    assert (await command("unprotect", B)).lines == [f"{B} is no longer protected"]
    assert [order[2] for order in controller.orders] == [True, False]


async def test_protection_takes_a_reason_and_an_end(command, controller):
    assert (await command("protect", A, "--for", "2h", "--reason", "a job")).code == 0
    (_, ids, protected, _, reason, until_at) = controller.orders[0]
    assert (ids, protected, reason) == ((A,), True, "a job")
    assert 7100 < (until_at - datetime.now(UTC)).total_seconds() <= 7200
    refused = await command("protect", A, "--for", "soon")
    assert (refused.code, refused.err) == (2, "--for: 'soon' is no time; write it like 90s, 30m, 2h or 1d\n")


async def test_members_are_moved_by_one_command_each(command, controller):
    shown = await command("enter-standby", A, "--replace")
    assert shown.lines == [f"{A} is on standby", "web wants 2"]
    assert (await command("exit-standby", A)).lines[0] == f"{A} is on the way back into service"
    assert (await command("detach", A)).lines[0] == f"{A} is being detached"
    assert (await command("attach", "jobs", A)).lines == [f"{A} is being attached", "jobs wants 2"]
    by = "ann at the command line"
    assert controller.orders == [
        ("move", EnterStandby((A,), False, by), ""),
        ("move", ExitStandby((A,), by), ""),
        ("move", Detach((A,), True, by), ""),
        ("move", Attach((A,), by), "jobs"),
    ]


async def test_suspensions_are_shown_wherever_the_group_is(command, controller):
    shown = await command(
        "suspend", "web", "Launch", "--until", "2099-03-01T14:00+01:00", "--reason", "migration"
    )
    assert shown.lines == ["web: Launch suspended now"]
    (found,) = json.loads((await command("groups", "--json")).out)["groups"][0]["suspended_processes"]
    assert (found["process"], found["hold"]["reason"]) == ("Launch", "migration")
    assert found["hold"]["until"] == "2099-03-01T13:00:00Z"
    near = await command("suspend", "web", "Lunch")
    assert (near.code, near.err) == (2, "processes: 'Lunch' is no process; write Launch\n")
    balancer = await command("suspend", "web", "AddToLoadBalancer")
    assert "there is no load balancer" in balancer.err


async def test_one_verb_freezes_everything_and_one_thaws_it(command, controller):
    assert (await command("freeze", "--for", "1d")).lines == ["web: frozen now", "jobs: frozen now"]
    (_, group, processes, hold) = controller.orders[0]
    assert (group, set(processes), hold.everywhere) == ("", set(Process), True)
    assert (await command("thaw", "web")).lines == ["web: everything goes on"]
    assert controller.orders[1] == ("resume", "web", tuple(Process))


@pytest.mark.parametrize("until", ["noon", "2099-03-01T14:00", "0001-01-01T00:00:00+14:00"])
async def test_a_time_without_a_zone_is_refused(command, controller, until):
    shown = await command("freeze", "--until", until)
    assert (shown.code, shown.out) == (2, "")
    mend = "write it like 2028-03-01T14:00+01:00"
    assert shown.err == f"--until: '{until}' is no time with a zone; {mend}\n"
    assert controller.orders == []


async def test_a_word_that_is_no_text_is_refused_before_anything_is_asked(command, controller):
    shown = await command("freeze", "--reason", os.fsdecode(b"caf\xe9"))
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == "'caf\\udce9': is not text in UTF-8; write it in UTF-8\n"
    assert controller.orders == []


async def test_set_health_marks_an_instance_and_says_whether_it_was_marked_already(command, controller):
    assert (await command("set-health", A, "unhealthy")).lines == [f"{A}: now marked unhealthy"]
    assert (await command("set-health", A, "healthy")).lines == [f"{A}: already marked healthy"]
    assert [order[:3] for order in controller.orders] == [("health", A, False), ("health", A, True)]
    unknown = await command("set-health", "i-0ffffffffffffffff", "unhealthy")
    assert (unknown.code, "no instance of ours" in unknown.err) == (2, True)


async def test_a_lifecycle_hook_is_shown_completed_and_kept_open(command, controller):
    controller.members[A] = replace(controller.members[A], hooks=(HOOK,))
    shown = (await command("instances", "web")).out
    assert "waits for save-logs since 2028-02-28 12:00:00Z, until 2028-02-28 12:01:00Z" in shown
    named = ("--instance-id", A, "--lifecycle-hook-name", "save-logs")
    shown = await command("complete-lifecycle-action", "--lifecycle-action-result", "CONTINUE", *named)
    assert shown.lines == [f"{A}: save-logs is completed with CONTINUE"]
    shown = await command("record-lifecycle-action-heartbeat", "--lifecycle-action-token", "token-1")
    assert shown.lines == [f"{A}: save-logs has its whole timeout again"]
    assert [order[0] for order in controller.orders] == ["complete", "heartbeat"]
    shown = await command("record-lifecycle-action-heartbeat", "--lifecycle-action-token", "token-2")
    assert (shown.code, "no lifecycle hook token-2 is open" in shown.err) == (2, True)


async def test_doctor_says_that_all_is_well_or_what_to_do(command, controller, daemon):
    assert (await command("doctor")).lines == ["all is well"]
    controller.found = (Fault("i-1", "runs with the tag of group old, which is not applied", "terminate it"),)
    daemon.settings_fault = "controller.toml: is broken"
    shown = await command("doctor")
    assert shown.code == 1
    assert shown.lines[0] == "i-1: runs with the tag of group old, which is not applied; terminate it"
    assert "controller.toml: is broken" in shown.lines[1]
    assert len(json.loads((await command("doctor", "--json")).out)["findings"]) == 2


async def test_reload_names_what_is_in_force_and_what_wants_a_restart(command):
    assert (await command("reload")).lines == ["in force now: log_level", "wants a restart: http_listen"]


async def test_a_refused_reload_fails_with_every_fault(command, daemon):
    daemon.refusing = SpecError(
        (Fault("c.toml: a", "is wrong", "mend it"), Fault("c.toml: b", "is wrong too"))
    )
    shown = await command("reload")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == "c.toml: a: is wrong; mend it\nc.toml: b: is wrong too\n"


async def test_a_store_that_is_gone_fails_with_its_own_words(command, controller):
    controller.failing = StoreError("the disk is full", "store", "give it room")
    shown = await command("groups")
    assert (shown.code, shown.err) == (1, "store: the disk is full; give it room\n")


@pytest.mark.parametrize("arguments", [("status",), ("kill", A), ("reload",), ("why", "web", "--json")])
async def test_a_controller_that_is_not_there_is_one_line_with_the_mend(tmp_path, arguments):
    shown = await run(*arguments, "--address", f"unix:{tmp_path}/none.sock")
    assert (shown.code, shown.out) == (1, "")
    (line,) = shown.err.splitlines()
    assert "no controller answers there; look at `systemctl status controller-asg`" in line


async def test_an_unknown_command_is_bad_input():
    assert (await run("statsu")).code == 2


async def test_the_version_is_shown():
    assert (await run("--version")).out.count(".") == 2


async def test_check_config_lists_every_fault_and_ends_with_2(tmp_path):
    path = tmp_path / "controller.toml"
    path.write_text('advertised_adress = "10.0.0.1:7402"\nlog_level = "loud"\n')
    shown = await run("check-config", str(path))
    assert (shown.code, shown.out) == (2, "")
    assert len(shown.err.splitlines()) == 2
    path.write_text('advertised_address = "10.0.0.1:7402"\n')
    assert (await run("check-config", str(path))).out == f"{path}: ok\n"
    assert json.loads((await run("check-config", "--json", str(path))).out) == {"errors": []}


async def test_migrate_makes_the_store_and_says_from_what_to_what(tmp_path):
    path = tmp_path / "controller.toml"
    path.write_text(f'advertised_address = "10.0.0.1:7402"\nstore_url = "sqlite:///{tmp_path}/store.db"\n')
    first = await run("migrate", "--config", str(path))
    assert first.out.startswith("the store went from nothing to 0")
    assert json.loads((await run("migrate", "--config", str(path), "--json")).out)["changed"] is False


async def test_import_config_writes_yaml_to_standard_output_and_notes_beside_it(tmp_path):
    old = tmp_path / "config.json"
    old.write_text(
        '{"instance_config": {"ami_id": "ami-0123456789abcdef0"}, "auth_config": {"aws_secret_key": "hunter2"}}'
    )
    shown = await run("import-config", str(old))
    assert shown.code == 0
    assert "min_size: 2" in shown.out
    assert "auth_config was left out" in shown.err
    assert "hunter2" not in shown.out + shown.err
    out = tmp_path / "groups.yml"
    assert (await run("import-config", str(old), "--out", str(out))).code == 0
    assert out.read_text() == shown.out
    again = await run("import-config", str(old), "--out", str(out))
    assert (again.code, again.err.splitlines()[-1]) == (
        2,
        f"{out}: is there already; name another file, or overwrite it by --force",
    )


async def test_import_config_of_bad_input_ends_with_2_and_all_faults(tmp_path):
    old = tmp_path / "config.json"
    old.write_text('{"policy_config": {"max_instances": "five", "create_policy": "high"}}')
    shown = await run("import-config", str(old), "--out", str(tmp_path / "groups.yml"))
    assert (shown.code, shown.out) == (2, "")
    assert len(shown.err.splitlines()) == 3
    assert not (tmp_path / "groups.yml").exists()


async def test_serve_refuses_settings_that_are_wrong(tmp_path):
    path = tmp_path / "controller.toml"
    path.write_text("")
    shown = await run("serve", "--config", str(path))
    assert shown.code == 2
    assert "advertised_address: is missing" in shown.err


async def test_the_daemons_process_imports_no_typer_rich_or_alembic():
    code = (
        "import sys; sys.argv = ['controller-asg', 'serve', '--config', '/dev/null/none']\n"
        "from controller_asg.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "import controller_asg.daemon\n"
        "print([name for name in ('typer', 'rich', 'alembic') if sys.modules.get(name)])"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out == b"[]\n"


async def test_the_forecast_is_a_row_an_hour_and_says_what_it_is_based_on(command, controller):
    shown = await command("forecast", "web")
    assert shown.lines[0] == "web: from 14.0 days; error 12 % over the last day"
    assert len(shown.lines) == 4
    controller.foretold = None
    assert (await command("forecast", "web")).code == 1
    shown = await command("forecast", "web", "--json")
    assert (shown.code, json.loads(shown.out)["steps"]) == (1, [])


async def test_a_policy_is_executed(command, controller):
    shown = await command("execute-policy", "web", "steps", "--metric-value", "59", "--honor-cooldown")
    assert shown.out == "web: 2 → 4\n"
    keys = {"honor_cooldown": True, "metric_value": 59.0, "breach_threshold": None}
    assert controller.orders == [("execute", "web", "steps", "ann at the command line", "", keys)]


async def test_the_secret_of_a_policy_is_told_from_the_settings_file(tmp_path):
    (tmp_path / "secret").write_text("whsec_" + "A" * 40 + "\n")
    settings = f'advertised_address = "10.0.0.5:7402"\nwebhook_secret_file = "{tmp_path}/secret"\n'
    (tmp_path / "c.toml").write_text(settings)
    told = [
        await run("webhook-secret", "web", name, "--config", f"{tmp_path}/c.toml") for name in ("a", "a", "b")
    ]
    assert told[0].out.startswith("whsec_")
    assert told[0].out == told[1].out != told[2].out
