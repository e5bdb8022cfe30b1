"""`controller-asg tune`: what it tells of the settings it tried, and what it refuses."""

import json
from pathlib import Path

import pytest
import yaml
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.cli import tune as _tune  # noqa: F401 - its command joins the others
from controller_asg.cli.app import app
from controller_asg.model.scaling_policy import DemandTracking
from controller_asg.rehearse import tune as tuning
from controller_asg.rehearse.figures import Figures
from controller_asg.rehearse.generate import generate, write_trace
from controller_asg.rehearse.load import Trace
from tests.unit.ansible.admin_double import AdminDouble, serving


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["tune", *map(str, arguments)])


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three settings whose figures are given: headroom's τU and cost on the first part, and on the rest."""
    points = {"normal": (0.5, 1.4, 0.5, 1.4), "lean": (0.5, 1.2, 0.9, 1.5), "ample": (0.1, 1.6, 0.1, 1.6)}
    policies = {DemandTracking(headroom=each): points[each] for each in ("normal", "lean", "ample")}  # type: ignore[arg-type]

    def figures(tau_u: float, cost: float) -> Figures:
        return Figures(tau_u, 0.0, 0.0, 0.0, cost, 0.0, 0.0, 0.0)

    tuned = tuning.Tuned(
        {policy: figures(*of[:2]) for policy, of in policies.items()},
        {policy: figures(*of[2:]) for policy, of in policies.items()},
    )
    monkeypatch.setattr(tuning, "tune", lambda *arguments: tuned)


@pytest.mark.usefixtures("made_up")
def test_it_proposes_the_cheapest_within_the_bound_and_tells_where_the_rest_disagrees() -> None:
    told = run("--load", "flat")
    assert told.exit_code == 0
    title, _, head, *rows, _, reason, disagrees, above, _, policy, lean, _, _ = told.output.splitlines()
    assert "chosen on the first 12 h and judged on the 12 h after them" in title
    columns = "HEADROOM PATIENCE_SECONDS FORECAST τU % FIRST COST FIRST τU % REST COST REST"
    assert " ".join(head.split()) == columns
    assert [" ".join(row.split()[:2]) for row in rows] == ["proposed lean", "present normal", "ample 600"]
    assert rows[0].split()[-4:] == ["0.500", "1.200", "0.900", "1.500"]
    assert reason.endswith(
        "the least cost on the first part among those whose τU is at most the present setting's, 0.500 %"
    )
    assert disagrees.startswith(
        "! the rest disagrees: headroom normal, patience_seconds 600, forecast auto has τU 0.500 %"
    )
    assert above == "! on the rest its τU is 0.900 %, above the present setting's 0.500 %"
    assert (policy, lean) == ("- type: demand_tracking", "  headroom: lean")


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("tau_u", "headroom", "met", "warnings"),
    [(0.2, "ample", True, 0), (0.9, "lean", True, 1), (0.05, "ample", False, 1)],
)
def test_the_bound_decides(tau_u: float, headroom: str, met: bool, warnings: int) -> None:
    told = json.loads(run("--load", "flat", "--tau-u", tau_u, "--json").output)
    assert told["proposed"]["headroom"] == headroom
    assert (told["tau_u_bound"], told["bound_met"], len(told["warnings"])) == (tau_u, met, warnings)
    assert [each["on_frontier"] for each in told["settings"]] == [False, True, True]
    text = run("--load", "flat", "--tau-u", tau_u).output
    assert ("no setting has a τU of 0.050 % or less" in text) == (not met)


def test_a_groups_policy_is_tuned_among_the_groups_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tuning.DIALS, "target_tracking", {"target": (50.0, 90.0)})
    file, load = tmp_path / "web.yml", tmp_path / "load.csv"
    made = generate("sawtooth")
    write_trace(Trace("half", made.seconds[:4320], made.loads[:4320]), load)
    tracking = {"type": "target_tracking", "metric": "cpu_percent", "target": 70}
    bounds = {"type": "thresholds", "enabled": False}
    file.write_text(yaml.safe_dump({"min_size": 1, "max_size": 12, "policies": [bounds, tracking]}))
    told = json.loads(run(file, "--load", load, "--policy", "target_tracking", "--json").output)
    assert told["split_seconds"] == 6 * 3600
    assert [each["policy"]["target"] for each in told["settings"]] == [70, 50, 90]
    present, low, high = (each["first"] for each in told["settings"])
    assert low["cost"] > present["cost"] > high["cost"]
    # What the group's max_size leaves of every tooth, and no target can mend.
    assert low["tau_u"] == present["tau_u"] == pytest.approx(30)
    assert high["tau_u"] > 30


STEP = "{type: step, metric: cpu_percent, threshold: 70, steps: [{adjustment: 1, lower: 0}]}"


@pytest.mark.parametrize(
    ("policies", "arguments", "told"),
    [
        (f"[{STEP}]", [], "has no policy that acts and can be tuned; give it one of demand_tracking,"),
        ("[{type: thresholds, mode: observe}]", [], "has no policy that acts and can be tuned"),
        (
            "[{type: thresholds}, {type: demand_tracking}]",
            [],
            "has the policies thresholds, demand_tracking; choose by --policy thresholds",
        ),
        (
            f"[{STEP}, {{type: thresholds}}]",
            ["--policy", "step"],
            "--policy: web has no step to tune; name one of thresholds",
        ),
        (
            "[{type: thresholds}]",
            ["--load", "step"],
            "synthetic-step: lasts 6 h, and each of its two parts wants 6 h",
        ),
        ("[{type: thresholds}]", ["--load", "."], "holds 2 traces; name one of them"),
    ],
)
def test_what_it_can_t_tune_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policies: str, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_trace(generate("step"), Path(f"{name}.csv"))
    Path("web.yml").write_text(f"{{min_size: 1, max_size: 9, policies: {policies}}}")
    result = run("web.yml", "--load", "flat", *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


@pytest.mark.usefixtures("made_up")
def test_a_group_is_tuned_on_what_the_controller_recorded_of_it(tmp_path: Path) -> None:
    double = AdminDouble()
    double.groups["web"] = {"min_size": 1, "max_size": 40, "policies": [{"type": "demand_tracking"}]}
    with serving(double, tmp_path) as address:
        short = run("web", "--address", address)
        double.minutes = [
            pb.DemandMinute(minute=Timestamp(seconds=1_800_000_000 + 60 * minute), demand=4.0)
            for minute in range(24 * 60)
        ]
        told = run("web", "--address", address)
    assert told.exit_code == 0
    assert told.output.splitlines()[0].startswith("web: ")
    assert "judged on the 11.99 h after them" in told.output
    assert short.exit_code == 2
    assert "only 0 minutes of demand are recorded" in " ".join(short.output.split())
