"""How the commands reach the controller, and how its refusals become lines and exit codes."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
import typer

from asg.admin.v1 import admin_pb2 as pb
from asg.admin.v1 import admin_pb2_grpc
from controller_asg.model.errors import Fault

DEFAULT_ADDRESS = "unix:/run/controller-asg/admin.sock"
TIMEOUT_SECONDS = 30.0  # an apply asks EC2; everything else answers at once
FAULTS_KEY = "asg-faults-bin"
# 10,000 instances, each with all the metrics and leases that an agent may tell, are 240 MB; gRPC's own limit is 4 MiB.
ANSWER_LIMIT_BYTES = 512 * 1024**2

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
_BAD_INPUT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE)


@contextmanager
def controller(address: str) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    """Within the block a failed call ends the command: exit code 2 for bad input, 1 for anything else."""
    options = (
        ("grpc.enable_http_proxy", 0),
        ("grpc.primary_user_agent", "controller-asg-cli"),
        ("grpc.max_receive_message_length", ANSWER_LIMIT_BYTES),
    )
    if not address:
        end([Fault("--address", "is empty", f"write it like {DEFAULT_ADDRESS}")], EXIT_BAD_INPUT)
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            yield admin_pb2_grpc.AdminServiceStub(channel)
        except grpc.RpcError as error:
            end(_faults(error, address), EXIT_BAD_INPUT if error.code() in _BAD_INPUT else EXIT_FAILED)


def end(faults: list[Fault], code: int) -> NoReturn:
    """A line a fault on standard error, then the exit."""
    for fault in faults:
        typer.echo(str(fault), err=True)
    raise typer.Exit(code)


def actor() -> str:
    """Who asks, as decisions show it."""
    try:
        return f"{getpass.getuser()} at the command line"
    except (KeyError, OSError):
        return f"uid {os.getuid()} at the command line"


def _faults(error: Any, address: str) -> list[Fault]:
    for key, value in error.trailing_metadata() or ():
        if key == FAULTS_KEY:
            return [Fault(each.where, each.what, each.mend) for each in pb.Faults.FromString(value).faults]
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return [_unreachable(address)]
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        what = f"gave no answer within {TIMEOUT_SECONDS:g} s"
        return [Fault(address, what, "look at `systemctl status controller-asg`")]
    return [
        Fault(address, f"{error.code().name}: {error.details()}", "look at `journalctl -u controller-asg`")
    ]


def _unreachable(address: str) -> Fault:
    path = address.removeprefix("unix:")
    if path != address:
        path = "/" + path.lstrip("/") if path.startswith("/") else path
        if os.path.exists(path) and not os.access(path, os.W_OK):
            return Fault(address, "may not be opened by you", "use sudo, or join the group of that socket")
    mend = "look at `systemctl status controller-asg`, or name another place by --address"
    return Fault(address, "no controller answers there", mend)
