"""`controller-asg complete-lifecycle-action` and `record-lifecycle-action-heartbeat`, as in EC2's own command line."""

from typing import Annotated, Literal

import typer

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.api.message_json import to_json
from controller_asg.cli.app import Address, AsJson, app, print_json
from controller_asg.cli.calls import DEFAULT_ADDRESS, TIMEOUT_SECONDS, actor, controller

InstanceId = Annotated[str, typer.Option(help="With --lifecycle-hook-name, in place of the token.")]
HookName = Annotated[str, typer.Option(help="The hook's name in the group's document.")]
Token = Annotated[str, typer.Option(help="As `controller-asg instances --json` shows it.")]


@app.command(name="complete-lifecycle-action")
def complete_lifecycle_action(
    result: Annotated[
        Literal["CONTINUE", "ABANDON"],
        typer.Option("--lifecycle-action-result", help="ABANDON ends a launch; a termination goes on."),
    ],
    instance_id: InstanceId = "",
    lifecycle_hook_name: HookName = "",
    lifecycle_action_token: Token = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Let an instance go on that waits for a lifecycle hook."""
    request = pb.CompleteLifecycleActionRequest(
        instance_id=instance_id,
        lifecycle_hook_name=lifecycle_hook_name,
        lifecycle_action_token=lifecycle_action_token,
        lifecycle_action_result=result,
        actor=actor(),
    )
    with controller(address) as stub:
        answer = stub.CompleteLifecycleAction(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json(to_json(answer))
    else:
        typer.echo(f"{answer.instance_id}: {answer.lifecycle_hook_name} is completed with {result}")


@app.command(name="record-lifecycle-action-heartbeat")
def record_lifecycle_action_heartbeat(
    instance_id: InstanceId = "",
    lifecycle_hook_name: HookName = "",
    lifecycle_action_token: Token = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Begin the heartbeat timeout of a lifecycle hook anew."""
    request = pb.RecordLifecycleActionHeartbeatRequest(
        instance_id=instance_id,
        lifecycle_hook_name=lifecycle_hook_name,
        lifecycle_action_token=lifecycle_action_token,
    )
    with controller(address) as stub:
        answer = stub.RecordLifecycleActionHeartbeat(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json(to_json(answer))
    else:
        typer.echo(f"{answer.instance_id}: {answer.lifecycle_hook_name} has its whole timeout again")
