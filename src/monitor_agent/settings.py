"""The agent's settings: `agent.toml` read, checked and made into one frozen object.

`SETTINGS` documents each key and says how it is checked; the default stands in `Settings`. All faults of a file come in
one report, and a file with a fault is not used at all.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from monitor_agent.faults import Fault, FaultsError

DEFAULT_PATH = Path("/etc/monitor-agent/agent.toml")
MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 0.1, 60.0  # the bounds of AgentSettings in register.proto
MAX_PATH_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class ControllerTag:
    """The EC2 tag of the controller's instance, and the port on its private address."""

    key: str
    value: str
    port: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What `SETTINGS` documents, valid as a whole."""

    controller_address: Address | None = None
    controller_srv_name: str | None = None
    controller_tag: ControllerTag | None = None
    ec2_endpoint_url: str | None = None
    region: str | None = None
    instance_id: str | None = None
    imds_url: str = "http://169.254.169.254"
    monitor_listen: Address = Address("0.0.0.0", 7401)  # the controller asks from another machine
    command_peers: tuple[str, ...] = ()
    http_listen: Address = Address("127.0.0.1", 7480)
    http_token_file: Path | None = None
    sample_interval_seconds: float = 1.0
    application_command: tuple[str, ...] = ()
    application_command_interval_seconds: float = 10.0
    application_command_timeout_seconds: float = 5.0
    application_openmetrics_url: str | None = None
    application_openmetrics_names: tuple[str, ...] = ()
    application_openmetrics_interval_seconds: float = 10.0
    application_openmetrics_timeout_seconds: float = 5.0
    drain_command: tuple[str, ...] = ()
    resume_command: tuple[str, ...] = ()
    hooks_directory: Path = Path("/etc/monitor-agent/hooks.d")
    busy_directory: Path = Path("/run/monitor-agent/busy.d")
    busy_command: tuple[str, ...] = ()
    busy_command_interval_seconds: float = 10.0
    busy_command_timeout_seconds: float = 5.0
    busy_connection_ports: tuple[int, ...] = ()
    busy_connections_above: int = 0
    state_dir: Path = Path("/var/lib/monitor-agent")


class _WrongError(Exception):
    """A value is wrong: (what, mend, where inside of the key)."""

    def __init__(self, what: str, mend: str = "", inside: str = "") -> None:
        super().__init__(what, mend, inside)
        self.what, self.mend, self.inside = what, mend, inside


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the file: how its value is checked, and what it means."""

    check: Callable[
        [Any], object
    ]  # Any: straight from the TOML reader; returns the valid value or raises _WrongError
    meaning: str


def read_settings(path: Path) -> Settings:
    """The settings of a file. Raises FaultsError with all that is wrong, also when it can't be read."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FaultsError(
            [Fault(str(path), error.strerror or str(error), "give a file that can be read")]
        ) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # TOMLDecodeError, bytes that are no text, a number too long
        raise FaultsError([Fault(str(path), f"not valid TOML: {error}", "mend the line")]) from error
    return parse_settings(document, str(path))


def parse_settings(document: Mapping[str, Any], source: str) -> Settings:
    """The settings of a read document; `source` names it in the faults of a FaultsError."""
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in SETTINGS:
            faults.append(_unknown(f"{source}: {key}", key, SETTINGS))
            continue
        try:
            values[key] = SETTINGS[key].check(value)
        except _WrongError as wrong:
            where = f"{source}: {key}{wrong.inside}"
            faults.append(Fault(where, wrong.what, wrong.mend))
    faults.extend(_contradictions(document, values, source))
    if faults:
        raise FaultsError(faults)
    return Settings(**values)


def read_token(settings: Settings) -> str | None:
    """The token of `http_token_file`, or None when the routes want none. Raises FaultsError."""
    path = settings.http_token_file
    if path is None:
        return None
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = f"{path}: {getattr(error, 'strerror', None) or error}"
        raise FaultsError([Fault("http_token_file", what, "make it readable to the agent")]) from error
    if len(token) < 16:
        what = f"{path} holds {len(token)} characters"
        raise FaultsError([Fault("http_token_file", what, "write a random token of 16 or more")])
    return token


def changed_keys(before: Settings, after: Settings) -> list[str]:
    """The names of the settings that differ."""
    return [
        field.name for field in fields(Settings) if getattr(before, field.name) != getattr(after, field.name)
    ]


def _contradictions(document: Mapping[str, Any], values: Mapping[str, Any], source: str) -> list[Fault]:
    faults = []
    ways = [key for key in ("controller_address", "controller_srv_name", "controller_tag") if key in document]
    if not ways:
        what = "nothing says where the controller is"
        mend = "set controller_address, controller_srv_name or controller_tag"
        faults.append(Fault(f"{source}: controller_address", what, mend))
    elif len(ways) > 1:
        faults.append(Fault(f"{source}: {ways[1]}", f"{ways[0]} is set too", "keep exactly one of them"))
    listen = values.get("http_listen")
    if listen is not None and not listen.is_loopback and "http_token_file" not in document:
        what = f"{listen} is reachable from other machines and no http_token_file is set"
        mend = "set http_token_file, or listen on 127.0.0.1"
        faults.append(Fault(f"{source}: http_listen", what, mend))
    for subject in ("application_command", "application_openmetrics", "busy_command"):
        key = f"{subject}_timeout_seconds"
        interval_key = f"{subject}_interval_seconds"
        if key in values or interval_key in values:
            timeout = values.get(key, getattr(_DEFAULTS, key))
            interval = values.get(interval_key, getattr(_DEFAULTS, interval_key))
            if timeout > interval:
                what = f"{timeout:g} is above {interval_key} {interval:g}"
                faults.append(Fault(f"{source}: {key}", what, "lower it"))
    return faults


def _unknown(where: str, key: str, known: Mapping[str, object]) -> Fault:
    import difflib  # only a faulty file needs it

    near = difflib.get_close_matches(key, known, n=1)
    mend = f"did you mean {near[0]}?" if near else f"remove it; known are {', '.join(sorted(known))}"
    return Fault(where, "unknown key", mend)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _WrongError(f"{value!r} is not a text", "put it in quotes")
    if not value.strip() or any(not character.isprintable() for character in value):
        raise _WrongError(
            f"{value!r} is empty or holds unprintable characters", "write a text, or leave the key out"
        )
    return value


def _pattern(pattern: str, example: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        text = _text(value)
        if not re.fullmatch(pattern, text):
            raise _WrongError(f"{text!r} does not look right", f"write it like {example}")
        return text

    return check


def _seconds(low: float, high: float) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _WrongError(
                f"{value!r} is not a number", "write seconds as a bare number, without quotes or unit"
            )
        if not low <= value <= high:  # so NaN is refused too
            what = f"{str(value)[:32]} is not within {low:g} to {high:g}"
            raise _WrongError(what, f"write {low:g} to {high:g} seconds")
        return float(value)

    return check


def _port(value: object, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 65535:
        raise _WrongError(f"port {value!r} is not within {low} to 65535", "write a port number")
    return value


def _ports(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _WrongError(f"{value!r} is not a list", "write it like [80, 443]")
    return tuple(_port(port, 1) for port in value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _WrongError(f"{value!r} is not a whole number from 0", "write a count")
    return value


def _address(low_port: int) -> Callable[[object], Address]:
    def check(value: object) -> Address:
        text = _text(value)
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", text)
        if match is None:
            raise _WrongError(
                f"{text!r} is not host:port", 'write it like "10.0.0.4:7402" or "[fd00::4]:7402"'
            )
        return Address(match[1] or match[2], _port(int(match[3]), low_port))

    return check


def _listen(value: object) -> Address:
    address = _address(0)(value)  # port 0: the kernel picks one, which tests need
    if address.host != "localhost":
        try:
            ipaddress.ip_address(address.host)
        except ValueError:
            mend = "write an address of this machine, or 0.0.0.0"
            raise _WrongError(f"{address.host!r} is not an IP address", mend) from None
    return address


def _url(*schemes: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        text = _text(value)
        if not re.fullmatch(
            rf"(?:{'|'.join(schemes)})://(?:\[[0-9A-Fa-f:.]+\]|[^\s/:@?#\[\]]+)(?::\d+)?(?:[/?]\S*)?", text
        ):
            raise _WrongError(
                f"{text!r} is not a URL of {' or '.join(schemes)}",
                f'write it like "{schemes[0]}://host:port/path"',
            )
        return text.rstrip("/") if text.count("/") == 3 else text

    return check


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _WrongError(f"{value!r} is not a list", 'write it like ["first", "second"]')
    for index, item in enumerate(value):
        if not isinstance(item, str) or "\0" in item:
            raise _WrongError(f"{item!r} is not a text", "put it in quotes", f"[{index}]")
    return tuple(value)


def _command(value: object) -> tuple[str, ...]:
    command = _texts(value)
    if not command:
        raise _WrongError("the command is empty", "name a program, or leave the key out")
    if not command[0].startswith("/"):
        raise _WrongError(f"{command[0]!r} is not an absolute path", "write the program's whole path", "[0]")
    return command


def _networks(value: object) -> tuple[str, ...]:
    texts = _texts(value)
    for index, text in enumerate(texts):
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise _WrongError(str(error), 'write it like "10.0.0.0/16"', f"[{index}]") from None
    return texts


def _path(value: object) -> Path:
    text = _text(value)
    if not os.path.isabs(text) or len(text) > MAX_PATH_CHARACTERS:
        raise _WrongError(f"{text!r} is not an absolute path", "write the whole path")
    return Path(text)


def _controller_tag(value: object) -> ControllerTag:
    example = 'write it like { key = "controller-asg:role", value = "controller", port = 7402 }'
    if not isinstance(value, dict):
        raise _WrongError(f"{value!r} is not a table", example)
    known = {"key": 128, "value": 256, "port": 0}  # EC2's limits for a tag's key and value
    for key in value:
        if key not in known:
            fault = _unknown("", key, known)
            raise _WrongError(fault.what, fault.mend, f".{key}")
    for key in known:
        if key not in value:
            raise _WrongError("missing", example, f".{key}")
    for key in ("key", "value"):
        if len(_text(value[key])) > known[key]:
            raise _WrongError(f"longer than {known[key]} characters", "EC2 has no such tag", f".{key}")
    return ControllerTag(value["key"], value["value"], _port(value["port"], 1))


SETTINGS: Mapping[str, Setting] = {
    "controller_address": Setting(
        _address(1),
        "`host:port` of the controller's agents' port. Exactly one of controller_address, controller_srv_name and "
        "controller_tag is set.",
    ),
    "controller_srv_name": Setting(
        _pattern(r"_[A-Za-z0-9-]+\._tcp(\.[A-Za-z0-9-]+)+\.?", '"_asg._tcp.example.com"'),
        "A DNS SRV name; its records are tried by priority and weight, and asked for again at each reconnect.",
    ),
    "controller_tag": Setting(
        _controller_tag,
        "A table `key`, `value`, `port`: the controller is the running instance with this tag, at its private address. "
        "Needs ec2:DescribeInstances; an answer is used again for about 30 s, so that a fleet without its controller "
        "does not use up the account's calls.",
    ),
    "ec2_endpoint_url": Setting(
        _url("http", "https"), "The EC2 API, for controller_tag. Default: EC2's own endpoint of the region."
    ),
    "region": Setting(
        _pattern(r"[a-z]{2}(-[a-z]+)+-\d", '"us-east-1"'),
        "For controller_tag. Default: from instance metadata.",
    ),
    "instance_id": Setting(
        _pattern(r"i-[0-9a-f]{8,17}", '"i-0123456789abcdef0"'),
        "Default: from instance metadata (IMDSv2), asked until it answers.",
    ),
    "imds_url": Setting(_url("http"), "Where instance metadata answers."),
    "monitor_listen": Setting(
        _listen,
        "Where MonitorService, health and reflection are served over gRPC. Takes effect at a restart.",
    ),
    "command_peers": Setting(
        _networks,
        "Networks that may call SetMetric and Drain besides the controller's own address. Others, programs of this "
        "machine too, send the token of http_token_file as metadata, `authorization: Bearer TOKEN`; without such a "
        "file this machine needs none. Everyone may call Ping and GetMetrics.",
    ),
    "http_listen": Setting(
        _listen,
        "Where /metrics, /healthz, /busy, /set-metric and /unregister are served. Not on loopback: http_token_file "
        "must be set. Takes effect at a restart.",
    ),
    "http_token_file": Setting(
        _path,
        "A file with a token of 16 or more characters; then /set-metric, /unregister and changes of /busy want "
        "`Authorization: Bearer TOKEN`.",
    ),
    "sample_interval_seconds": Setting(
        _seconds(MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS),
        "Until the controller says otherwise, as it does in each session.",
    ),
    "application_command": Setting(
        _command,
        "A program and its arguments; each line it prints, `name value`, is a metric. At most 64 are sent. Its "
        "standard error goes to the journal.",
    ),
    "application_command_interval_seconds": Setting(_seconds(0.5, 3600), "Pause between two runs' starts."),
    "application_command_timeout_seconds": Setting(
        _seconds(0.1, 3600), "After this long the command is killed and its metrics are absent."
    ),
    "application_openmetrics_url": Setting(
        _url("http", "https"),
        "A page in OpenMetrics or Prometheus text format; its gauges, counters and untyped samples are sent as "
        '`name{label="value"}`, at most 64.',
    ),
    "application_openmetrics_names": Setting(
        _texts, "Only samples of these names are taken from the page. Empty: all, in the page's order."
    ),
    "application_openmetrics_interval_seconds": Setting(
        _seconds(0.5, 3600), "Pause between two readings' starts."
    ),
    "application_openmetrics_timeout_seconds": Setting(
        _seconds(0.1, 3600), "After this long the reading is given up and its metrics are absent."
    ),
    "drain_command": Setting(
        _command,
        "A program and its arguments, run when the controller wants the instance empty; exit 0 means that it is. It "
        "must be safe to repeat. Not set: the instance may go at once.",
    ),
    "resume_command": Setting(
        _command,
        "A program and its arguments, run when an instance that was to be emptied is to serve again; a drain_command "
        "that still runs is killed before. It is killed after 300 s itself.",
    ),
    "hooks_directory": Setting(
        _path,
        "Lifecycle hooks name a file of this directory, which the agent runs. Both belong to root, and nobody else may "
        "write them.",
    ),
    "busy_directory": Setting(
        _path,
        "Each file in it is a lease: the instance is busy while it is there. Its name is the owner, its first line the "
        "reason, and an optional second line, `seconds: N`, ends it so long after it was written. Names that begin "
        "with a dot are passed over.",
    ),
    "busy_command": Setting(
        _command,
        "A program and its arguments: exit 0 says that the instance is busy, and its first line why; exit 1 that it is "
        "idle. When it ends otherwise or takes too long, its last word holds; before it has said one, the instance is "
        "busy.",
    ),
    "busy_command_interval_seconds": Setting(_seconds(0.5, 3600), "Pause between two runs' starts."),
    "busy_command_timeout_seconds": Setting(_seconds(0.1, 3600), "After this long the command is killed."),
    "busy_connection_ports": Setting(
        _ports,
        "Local TCP ports: the instance is busy while more than busy_connections_above connections to them are "
        "established in the agent's own network namespace. Counted every 5 s.",
    ),
    "busy_connections_above": Setting(
        _count, "How many connections to busy_connection_ports an idle instance may have."
    ),
    "state_dir": Setting(
        _path,
        "The working directory of the commands, and where leases of POST /busy and an order to drain outlive a restart "
        "of the agent; systemd's StateDirectory.",
    ),
}

_DEFAULTS = Settings()
