"""The daemon's own settings: /etc/controller-asg/controller.toml, written by the role `controller`.

Groups are not here; they come through the API. A key that is not known, or a value out of its range, is refused with
every other fault of the file in one report.
"""

import dataclasses
import ipaddress
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_type_hints
from urllib.parse import urlsplit

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from controller_asg.model.errors import Fault, SpecError
from controller_asg.model.faults import faults_of
from controller_asg.model.scaling_policy import STRICT

SOCKET_PATH_LIMIT_BYTES = 107  # sun_path of unix(7), without its final zero
RELOAD = "reload"  # marks a setting that a reload takes over; any other wants a restart


@dataclass(frozen=True, slots=True, config=STRICT)
class Settings:
    """Defaults stand here and nowhere else."""

    # Written into the tags of every instance: two controllers in one account keep to their own.
    controller_name: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,62}$")] = "controller-asg"
    # What new instances are told: "host:port" of agents_listen as they reach it. Required.
    advertised_address: str = ""
    agents_listen: str = "0.0.0.0:7402"
    # Loopback only: whoever reaches it may do everything. Empty: admin_socket alone, whose group says who may.
    admin_listen: str = "127.0.0.1:7403"
    admin_socket: str = "/run/controller-asg/admin.sock"
    http_listen: str = "127.0.0.1:7480"
    # A file that holds the bearer token of the HTTP API; without it HTTP is off.
    http_token_file: str = ""
    # A file with the secrets of signed messages, `whsec_` and base64, one a line, the newest first; without it none are
    # taken.
    webhook_secret_file: str = ""
    store_url: str = "sqlite:////var/lib/controller-asg/store.db"
    region: str = ""  # empty: from AWS_REGION or instance metadata
    ec2_endpoint_url: str = ""  # empty: AWS's own
    # EC2 is asked this often for all groups, and at once when something is suspicious.
    observe_interval_seconds: Annotated[float, Field(ge=0.5, le=300), RELOAD] = 10.0
    # The pace agents are told.
    sample_interval_seconds: Annotated[float, Field(ge=0.1, le=60), RELOAD] = 1.0
    # No message for so long: the session's witness is against the instance, and pings start.
    silence_seconds: Annotated[float, Field(ge=0.5, le=600), RELOAD] = 2.5
    # One ping's deadline.
    ping_timeout_seconds: Annotated[float, Field(ge=0.1, le=30), RELOAD] = 0.75
    # Ended activities and decisions are kept so long.
    history_days: Annotated[float, Field(gt=0, le=3650), RELOAD] = 14.0
    # USD an hour that all groups together may cost, by prices_file; a group's own is max_hourly_cost in its document.
    # Each group's min_size is set aside, the rest is for who asks first. 0: no ceiling.
    max_hourly_cost: Annotated[float, Field(ge=0, le=1_000_000), RELOAD] = 0.0
    # YAML or JSON: region, type, then on_demand and spot in USD an hour. Needed where a ceiling or lowest-price is set.
    # A reload reads it anew. Empty: no prices.
    prices_file: Annotated[str, RELOAD] = ""
    # Jinja2 template of the user data (the role monitor_agent's own).
    user_data_template: str = "/etc/controller-asg/user-data.j2"
    # bootstrap: role. The directory that holds roles/monitor_agent and its wheelhouse, and the ssh identity to use.
    bootstrap_project: str = "/usr/local/share/controller-asg/bootstrap"
    bootstrap_ssh_user: str = "debian"
    bootstrap_ssh_key_file: str = ""
    bootstrap_timeout_seconds: Annotated[float, Field(ge=10, le=3600)] = 300.0
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$"), RELOAD] = "info"


_SETTINGS: TypeAdapter[Settings] = TypeAdapter(Settings)
NAMES = tuple(field.name for field in dataclasses.fields(Settings))
RELOADABLE = frozenset(
    name
    for name, hint in get_type_hints(Settings, include_extras=True).items()
    if RELOAD in getattr(hint, "__metadata__", ())
)


def load_settings(path: Path) -> Settings:
    """The settings of a TOML file. Raises SpecError with everything that is wrong with it."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        what = f"can't be read: {error.strerror}"
        raise SpecError(
            (Fault(str(path), what, "see that it exists and the service may read it"),)
        ) from error
    except UnicodeDecodeError as error:
        raise SpecError((Fault(str(path), "is not text in UTF-8", "save it as UTF-8"),)) from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError((Fault(str(path), f"is not TOML: {error}", "mend that line"),)) from error
    try:
        # As JSON: pydantic's strict mode takes no dict of Python for a dataclass.
        settings = _SETTINGS.validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        raise SpecError(tuple(_in_file(path, fault) for fault in faults_of(error, "", Settings))) from error
    if faults := tuple(_in_file(path, fault) for fault in _contradictions(settings)):
        raise SpecError(faults)
    return settings


def changed(old: Settings, new: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names a reload takes over, names that want a restart) of the settings that differ, in the file's order."""
    names = [name for name in NAMES if getattr(old, name) != getattr(new, name)]
    reloadable = tuple(name for name in names if name in RELOADABLE)
    return reloadable, tuple(name for name in names if name not in RELOADABLE)


def reloaded(old: Settings, new: Settings) -> Settings:
    """What is in force after a reload: the reloadable settings of the new, everything else of the old."""
    return dataclasses.replace(old, **{name: getattr(new, name) for name in RELOADABLE})


def public(settings: Settings) -> dict[str, str]:
    """The settings as operators may see them: the password of store_url is left out."""
    values = {name: getattr(settings, name) for name in NAMES}
    values["store_url"] = _without_password(settings.store_url)
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in values.items()}


def split_address(address: str) -> tuple[str, int]:
    """("::1", 7403) of "[::1]:7403". Raises ValueError with the reason."""
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError("is not host:port")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"has no port: {port!r} is not a number from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("has an IPv6 address without brackets")
    if not host or any(character.isspace() or character in "/@[]" for character in host):
        raise ValueError("has no proper host")
    return host, int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _contradictions(settings: Settings) -> Iterator[Fault]:
    """What a type alone does not say."""
    example = "write it like 10.0.0.5:7402, and an IPv6 address in brackets"
    if not settings.advertised_address:
        yield Fault(
            "advertised_address", "is missing", "write host:port of agents_listen as instances reach it"
        )
    for name in ("advertised_address", "agents_listen", "admin_listen", "http_listen"):
        address: str = getattr(settings, name)
        if name in ("advertised_address", "admin_listen") and not address:
            continue
        try:
            host, _ = split_address(address)
        except ValueError as error:
            yield Fault(name, f"{address!r} {error}", example)
            continue
        if name == "admin_listen" and not is_loopback(host):
            yield Fault(
                name,
                f"{address!r} is open to other machines, and the admin service asks for no credentials",
                "write a loopback address such as 127.0.0.1:7403",
            )
        if name == "advertised_address" and host in ("0.0.0.0", "::"):
            yield Fault(
                name, f"{address!r} is no address that an instance can reach", "write the controller's own"
            )
    path = settings.admin_socket
    if not path.startswith("/") or len(path.encode()) > SOCKET_PATH_LIMIT_BYTES:
        mend = f"write an absolute path of {SOCKET_PATH_LIMIT_BYTES} bytes at the most"
        yield Fault("admin_socket", f"{path!r} can't be the path of a socket", mend)
    if (url := settings.ec2_endpoint_url) and not _is_http(url):
        yield Fault(
            "ec2_endpoint_url", f"{url!r} is no URL", "write http://host:port, or leave it empty for AWS"
        )


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    # From the last @: a password may hold a slash or another @ that should have been escaped.
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    # A driver takes a password from the query as well.
    plain, question, _ = place.partition("?")
    return f"{scheme}{separator}{user}{colon and ':***'}{at}{plain}{question and '?…'}"


def _in_file(path: Path, fault: Fault) -> Fault:
    return Fault(f"{path}: {fault.where}", fault.what, fault.mend)
