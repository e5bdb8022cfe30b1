"""The settings file: what is valid, and what a faulty one hears."""

from dataclasses import fields
from pathlib import Path

import pytest

from monitor_agent.faults import FaultsError
from monitor_agent.settings import (
    SETTINGS,
    Address,
    ControllerTag,
    Settings,
    changed_keys,
    parse_settings,
    read_settings,
    read_token,
)

LEAST = {"controller_address": "10.0.0.4:7402"}


def faults_of(document: dict[str, object]) -> list[str]:
    with pytest.raises(FaultsError) as caught:
        parse_settings(document, "agent.toml")
    return [str(fault) for fault in caught.value.faults]


def test_one_key_is_enough_and_the_rest_has_defaults() -> None:
    settings = parse_settings(LEAST, "agent.toml")
    assert settings == Settings(controller_address=Address("10.0.0.4", 7402))
    assert (str(settings.monitor_listen), str(settings.http_listen)) == ("0.0.0.0:7401", "127.0.0.1:7480")


def test_every_setting_is_documented_and_every_documented_key_is_a_setting() -> None:
    assert [field.name for field in fields(Settings)] == list(SETTINGS)
    assert all(setting.meaning for setting in SETTINGS.values())


def test_all_keys_together_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        """
        controller_tag = { key = "controller-asg:role", value = "controller", port = 7402 }
        ec2_endpoint_url = "http://10.0.0.1:5000/"
        region = "us-east-1"
        instance_id = "i-0123456789abcdef0"
        imds_url = "http://169.254.169.254"
        monitor_listen = "[::]:7401"
        command_peers = ["10.1.0.0/16"]
        http_listen = "0.0.0.0:7480"
        http_token_file = "/run/token"
        sample_interval_seconds = 1
        application_command = ["/usr/local/bin/queue", "--json"]
        application_command_interval_seconds = 5
        application_command_timeout_seconds = 2.5
        application_openmetrics_url = "http://127.0.0.1:9100/metrics"
        application_openmetrics_names = ["queue_depth"]
        application_openmetrics_interval_seconds = 15
        application_openmetrics_timeout_seconds = 5
        drain_command = ["/usr/local/bin/drain"]
        resume_command = ["/usr/local/bin/resume"]
        hooks_directory = "/etc/hooks.d"
        busy_directory = "/run/busy.d"
        busy_command = ["/usr/local/bin/is-busy"]
        busy_command_interval_seconds = 20
        busy_command_timeout_seconds = 2
        busy_connection_ports = [80, 443]
        busy_connections_above = 3
        state_dir = "/var/lib/monitor-agent"
        """
    )
    settings = read_settings(file)
    assert settings.controller_tag == ControllerTag("controller-asg:role", "controller", 7402)
    assert settings.ec2_endpoint_url == "http://10.0.0.1:5000"
    assert settings.monitor_listen == Address("::", 7401)
    assert str(settings.monitor_listen) == "[::]:7401"
    assert (settings.busy_connection_ports, settings.busy_connections_above) == ((80, 443), 3)
    assert settings.application_command == ("/usr/local/bin/queue", "--json")


def test_an_unknown_key_names_the_near_one() -> None:
    assert faults_of({**LEAST, "sample_intervall_seconds": 1}) == [
        "agent.toml: sample_intervall_seconds: unknown key; did you mean sample_interval_seconds?"
    ]
    assert faults_of({"controller_tag": {"key": "a", "valu": "b", "port": 1}}) == [
        "agent.toml: controller_tag.valu: unknown key; did you mean value?"
    ]


def test_all_faults_come_in_one_report() -> None:
    found = faults_of(
        {
            "controller_address": "nowhere",
            "sample_interval_seconds": "1s",
            "instance_id": "web-1",
            "drain_command": ["drain"],
            "colour": "red",
        }
    )
    assert [fault.split(": ")[1] for fault in found] == [
        "controller_address",
        "sample_interval_seconds",
        "instance_id",
        "drain_command[0]",
        "colour",
    ]
    assert "write seconds as a bare number, without quotes or unit" in found[1]


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("sample_interval_seconds", 0, "0 is not within 0.1 to 60"),
        ("sample_interval_seconds", float("nan"), "nan is not within"),
        ("sample_interval_seconds", True, "True is not a number"),
        ("controller_address", "10.0.0.4:0", "port 0 is not within 1 to 65535"),
        ("controller_address", "10.0.0.4:70000", "port 70000 is not within"),
        ("controller_address", "http://10.0.0.4:7402", "is not host:port"),
        ("monitor_listen", "somewhere:7401", "is not an IP address"),
        ("imds_url", "169.254.169.254", "is not a URL of http"),
        ("command_peers", ["10.0.0.1/8"], "has host bits set"),
        ("application_command", "echo", "is not a list"),
        ("application_command", [], "the command is empty"),
        ("application_command", ["/bin/echo", 1], "1 is not a text"),
        ("state_dir", "state", "is not an absolute path"),
        ("region", "Frankfurt", "does not look right"),
        ("busy_connection_ports", 80, "80 is not a list"),
        ("busy_connection_ports", [0], "port 0 is not within 1 to 65535"),
        ("busy_connections_above", -1, "-1 is not a whole number from 0"),
        ("busy_command", ["is-busy"], "is not an absolute path"),
        ("application_openmetrics_url", "ftp://x/", "is not a URL of http or https"),
    ],
)
def test_a_wrong_value_is_refused_with_its_reason(key: str, value: object, what: str) -> None:
    (found,) = faults_of(LEAST | {key: value})
    assert found.startswith(f"agent.toml: {key}")
    assert what in found


def test_exactly_one_way_to_the_controller_is_wanted() -> None:
    assert "nothing says where the controller is" in faults_of({})[0]
    assert "keep exactly one" in faults_of({**LEAST, "controller_srv_name": "_asg._tcp.example.com"})[0]


def test_http_on_other_than_loopback_wants_a_token_file() -> None:
    assert "no http_token_file is set" in faults_of({**LEAST, "http_listen": "0.0.0.0:7480"})[0]
    parse_settings({**LEAST, "http_listen": "[::1]:7480"}, "agent.toml")
    parse_settings({**LEAST, "http_listen": "0.0.0.0:7480", "http_token_file": "/run/token"}, "agent.toml")


def test_a_timeout_longer_than_its_interval_is_refused() -> None:
    (found,) = faults_of({**LEAST, "application_command_interval_seconds": 2})
    assert "application_command_timeout_seconds: 5 is above application_command_interval_seconds 2" in found


def test_a_file_that_is_missing_or_no_toml_is_one_fault(tmp_path: Path) -> None:
    with pytest.raises(FaultsError, match="No such file"):
        read_settings(tmp_path / "missing.toml")
    (tmp_path / "agent.toml").write_text("controller_address = ")
    with pytest.raises(FaultsError, match="not valid TOML"):
        read_settings(tmp_path / "agent.toml")


def test_a_token_is_read_and_a_short_or_missing_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    settings = Settings(http_token_file=file)
    with pytest.raises(FaultsError, match="No such file"):
        read_token(settings)
    file.write_text("short\n")
    with pytest.raises(FaultsError, match="holds 5 characters"):
        read_token(settings)
    file.write_text("0123456789abcdef\n")
    assert read_token(settings) == "0123456789abcdef"
    assert read_token(Settings()) is None


def test_changed_keys_names_what_differs() -> None:
    assert changed_keys(Settings(), Settings(region="us-east-1")) == ["region"]
