"""`controller-asg rehearse` on a made-up trace."""

import csv
import json
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.cli import rehearse as _rehearse  # noqa: F401 - its command joins the others
from controller_asg.cli.app import app
from controller_asg.rehearse.generate import generate, write_trace
from tests.unit.ansible.admin_double import AdminDouble, serving


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    made = generate("step")
    path = tmp_path / "traces" / f"{made.name}.csv"
    path.parent.mkdir()
    write_trace(made, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["rehearse", *map(str, arguments)])


def test_it_prints_the_figures_of_the_policy_and_of_those_it_is_held_against(trace: Path) -> None:
    told = run("--load", trace, "--against", "ec2", "--against", "hpa")
    assert told.exit_code == 0
    title, head, ours, ec2, hpa, *picture = told.output.splitlines()
    assert title == "synthetic-step"
    assert head.split()[:2] == ["τU", "%"]
    assert [line.split()[0] for line in (ours, ec2, hpa)] == ["demand_tracking", "tt60", "hpa60"]
    assert "demand" in picture[-1]
    assert ec2.split()[1:] == ["1.528", "0.594", "98.472", "94.043", "1.845", "3.167", "0.000", "18.424"]


def test_json_has_each_trace_and_all_together(trace: Path) -> None:
    told = json.loads(run("--load", trace.parent, "--json").output)
    assert told["delay_seconds"] == 120
    ours = told["traces"]["synthetic-step"]["demand_tracking"]
    assert ours["tau_u"] < told["traces"]["synthetic-step"]["tt60"]["tau_u"]
    assert told["together"]["demand_tracking"]["cost"] == pytest.approx(ours["cost"])


def test_the_capacity_is_written(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert run("--load", trace, "--capacity", out, "--delay", 60).exit_code == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"seconds": "0", "desired": "11", "in_service": "11"}
    assert max(int(row["in_service"]) for row in rows) >= 18
    assert run("--load", trace.parent, "--capacity", tmp_path / "all").exit_code == 0
    assert (tmp_path / "all" / "synthetic-step.csv").exists()


POLICY = "type: demand_tracking\nheadroom: ample\npatience_seconds: 3600\n"
GROUP = """
min_size: 1
max_size: 100
policies:
- {type: demand_tracking, headroom: ample, patience_seconds: 3600}
"""


def cost(told: str, name: str) -> float:
    found: float = json.loads(told)["together"][name]["cost"]
    return found


def test_the_policy_may_stand_alone(trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    patient = run("--load", trace, "--json", "--group", file).output
    assert cost(patient, "demand_tracking") > cost(run("--load", trace, "--json").output, "demand_tracking")


def test_a_whole_group_is_rehearsed_and_held_against_another(trace: Path, tmp_path: Path) -> None:
    file, many, out = (tmp_path / name for name in ("web.yaml", "groups.yaml", "out.html"))
    file.write_text(GROUP)
    capped = "{min_size: 3, max_size: 12, policies: [{type: thresholds}]}"
    many.write_text(f"asg_groups:\n  web: {capped}\n  other: {capped}\n")
    told = run("--load", trace, "--group", file, "--against", f"{many}:other", "--json", "--report", out)
    capped_figures = json.loads(told.output)["together"][f"{many}:other"]
    assert capped_figures["mean_in_service"] <= 12
    assert cost(told.output, "web") > capped_figures["cost"]
    assert "demand_tracking: demand " in out.read_text()  # the group's own decisions
    both = json.loads(run("--load", trace, "--group", file, "--against", file, "--json").output)["together"]
    assert both["web"] == both[str(file)]
    refused = run("--load", trace, "--group", many)
    assert refused.exit_code == 2
    assert f"holds the groups web, other; write {many}:web" in "".join(refused.output.splitlines())


def test_what_the_controller_has_recorded_is_rehearsed_at_its_own_size(tmp_path: Path) -> None:
    double, changed = AdminDouble(), tmp_path / "changed.yaml"
    double.groups["web"] = {"min_size": 1, "max_size": 40, "policies": [{"type": "demand_tracking"}]}
    changed.write_text("{min_size: 30, max_size: 40}")

    def record(minutes: int, load: float) -> None:
        double.minutes = [
            pb.DemandMinute(minute=Timestamp(seconds=1_800_000_000 + 60 * n), demand=load * (1 + n % 2 / 10))
            for n in range(minutes)
        ]

    with serving(double, tmp_path) as address:
        asked = ("--load", "recorded", "--group", "web", "--address", address)
        record(120, 8.0)
        told = json.loads(run(*asked, "--against", changed, "--json").output)["together"]
        assert (
            8 <= told["web (applied)"]["mean_in_service"] < 17.5
        )  # as the instances at the begin are, or fewer
        size = told[str(changed)]["mean_in_service"]
        assert size == pytest.approx(30, rel=0.05), "its min_size, however small the load"
        larger = json.loads(run(*asked, "--mean", 80, "--json").output)["together"]
        assert larger["web (applied)"]["mean_in_service"] >= 40
        record(59, 8.0)
        short = run(*asked)
        record(120, 0.0)
        idle = run(*asked)
    (_, request), *_ = double.calls
    assert (request.group, request.HasField("since")) == ("web", True)
    assert (short.exit_code, idle.exit_code) == (2, 2)
    assert "groups.web: only 59 minutes of demand are recorded" in " ".join(short.output.split())
    assert "groups.web: had no load at all" in " ".join(idle.output.split())
    nameless = run("--load", "recorded")
    assert "--group: is missing, and --load recorded wants it" in " ".join(nameless.output.split())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "type: demand_tracking\nheadroom: lots\n",
            "headroom: 'lots' is not known; write lean, normal or ample",
        ),
        ("type: demand_tracking\nheadroom: 2028-03-01\n", "headroom: '2028-03-01' is not known"),
        ("asg_groups: {}", "group.yaml: asg_groups: holds no group; write one below it"),
        ("{2028-03-01: 1}", "can't be JSON"),
        ("{", "is no YAML"),
        ("[]", "holds no mapping"),
        ("{min_size: 4, max_size: 3}", "asg_groups.group.max_size: 3 is below min_size 4"),
        (
            "{min_size: 1, max_size: 3, policies: [{type: thresholds, metric: load1_per_cpu}]}",
            "group.policies[0]: looks at load1_per_cpu, and a rehearsal knows cpu_percent alone",
        ),
        (
            "{policies: [{type: target_tracking, target: 1, expression: sum(app.x) / average(cpu_percent)}]}",
            "group.policies[0]: looks at app.x, and a rehearsal knows cpu_percent alone",
        ),
        (
            "{policies: [{type: thresholds, metric: cpu_persent}]}",
            "group.policies[0].metric: 'cpu_persent' is no metric; write cpu_percent, or app.<name> for one",
        ),
    ],
)
def test_a_bad_group_is_told_with_its_place(trace: Path, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "group.yaml"
    file.write_text(text)
    result = run("--load", trace, "--group", file)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


def test_a_bad_trace_is_told_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("seconds,load\n0,one\n")
    result = run("--load", file)
    assert result.exit_code == 2
    assert "t.csv:2: '0,one' is not two numbers" in result.output


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("4e7,1", "t.csv:3: 4e+07 s is more than a year after the first row"),
        ("10,1e300", "t.csv:3: '10,1e300' is no load"),
    ],
)
def test_a_trace_has_bounds(tmp_path: Path, row: str, said: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"seconds,load\n0,1\n{row}\n")
    result = run("--load", file)
    assert (result.exit_code, said in result.output) == (2, True)


@pytest.mark.parametrize("option", ["--delay", "--mean"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_without_bounds_is_refused(option: str, value: str) -> None:
    result = run("--load", "step", option, value)
    assert (result.exit_code, f"Invalid value for '{option}'" in result.output) == (2, True)


def test_a_made_up_shape_has_a_name() -> None:
    assert "synthetic-ramp" in run("--load", "ramp").output
    refused = run("--load", "stairs")
    assert refused.exit_code == 2
    assert "stairs: is not there; name a file, a folder, or one of the shapes step, ramp" in refused.output


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("zones: 4", (), "zones"),
        ("outages: [{zone: eu-west-1a, at_seconds: 0, lasts_seconds: 1}]", (), "outages[0].zone"),
        ("speed: 3", (), "speed"),
        ("seed: 2028-03-01", (), "seed: '2028-03-01' is not a whole number"),
        ("zones: 2", ("--against", "ec2"), "--against"),
    ],
)
def test_a_wrong_world_is_named_with_the_place(
    trace: Path, tmp_path: Path, text: str, arguments: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "world.yml"
    file.write_text(text)
    told = run("--load", trace, "--world", file, *arguments)
    assert told.exit_code == 2
    assert said in told.output


def test_a_described_world_tells_what_was_paid(tmp_path: Path) -> None:
    load, file = tmp_path / "load.csv", tmp_path / "world.yml"
    load.write_text("seconds,load\n" + "".join(f"{second},5\n" for second in range(0, 600, 10)))
    file.write_text("price_per_hour: 2")
    told = run("--load", load, "--mean", 5, "--world", file)
    assert told.exit_code == 0
    assert " instance-hours, which cost " in told.output.splitlines()[0]
