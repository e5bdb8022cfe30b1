"""The commands of single policies: what is foretold, and those that are executed."""

import math
from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.api.message_json import to_json
from controller_asg.cli.app import Address, AsJson, Config, LeftOut, _meant, app, print_json
from controller_asg.cli.calls import (
    DEFAULT_ADDRESS,
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    TIMEOUT_SECONDS,
    actor,
    controller,
    end,
)
from controller_asg.cli.serve import DEFAULT_CONFIG
from controller_asg.cli.tables import Table
from controller_asg.model.errors import Fault, SpecError

PolicyArgument = Annotated[str, typer.Argument(metavar="POLICY", help="A step or simple policy's name.")]
EVERY = 12  # steps of five minutes are a row


@app.command()
def forecast(group: LeftOut = "", address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """What a group's demand will be in the coming 48 hours, and what that is based on; --json has each five minutes."""
    with controller(address) as stub:
        name = _meant(stub, group)
        found = stub.GetForecast(pb.GetForecastRequest(group=name), timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json({"group": name, **to_json(found)})
        if not found.steps:
            raise typer.Exit(EXIT_FAILED)
        return
    if not found.steps:
        typer.echo(f"{name}: no forecast yet: it wants 24 hours of recorded demand")
        raise typer.Exit(EXIT_FAILED)
    error = (
        f"{100 * found.error_ratio:.0f} % over the last day"
        if found.HasField("error_ratio")
        else "not known yet"
    )
    typer.echo(f"{name}: from {found.basis}; error {error}")
    rows = []
    for at in range(0, len(found.steps), EVERY):
        steps = found.steps[at : at + EVERY]
        highest = max(steps, key=lambda step: step.demand)
        wanted = str(highest.capacity) if highest.HasField("capacity") else "-"
        mean = math.fsum(step.demand for step in steps) / len(steps)
        begins = f"{steps[0].at.ToDatetime(UTC):%a %H:%M}Z"
        rows.append((begins, f"{mean:.1f}", f"{highest.demand:.1f}", wanted))
    Table(("FROM", "DEMAND", "HIGHEST", "INSTANCES"), tuple(rows)).show("nothing")


@app.command(name="execute-policy")
def execute_policy(
    group: str,
    policy: PolicyArgument,
    metric_value: Annotated[
        float | None, typer.Option(help="Of a step policy: what chooses the step.")
    ] = None,
    breach_threshold: Annotated[
        float | None, typer.Option(help="Of a step policy. Left out: its threshold.")
    ] = None,
    honor_cooldown: Annotated[
        bool, typer.Option("--honor-cooldown", help="Refuse within its cooldown.")
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Make the adjustment of a step or simple policy now, whatever its metric says."""
    request = pb.ExecutePolicyRequest(
        group=group,
        policy=policy,
        actor=actor(),
        honor_cooldown=honor_cooldown,
        metric_value=metric_value,
        breach_threshold=breach_threshold,
    )
    with controller(address) as stub:
        answer = stub.ExecutePolicy(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json({"group": group, "policy": policy, **to_json(answer)})
    else:
        typer.echo(f"{group}: {answer.before} → {answer.after}")


@app.command(name="webhook-secret")
def webhook_secret(
    group: str, policy: PolicyArgument, config: Config = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Print the secret with which messages to a policy are signed. Run it as root, on the controller."""
    from controller_asg.api.webhooks import read_secrets, secret_of, shown
    from controller_asg.config import load_settings

    try:
        file = load_settings(config).webhook_secret_file
        if not file:
            fault = Fault("webhook_secret_file", "is not set, so no message is taken", "name a file there")
            end([fault], EXIT_BAD_INPUT)
        secret = shown(secret_of(read_secrets(Path(file))[0], group, policy))
    except SpecError as error:
        end(list(error.faults), EXIT_BAD_INPUT)
    if as_json:
        print_json({"group": group, "policy": policy, "secret": secret})
    else:
        typer.echo(secret)
