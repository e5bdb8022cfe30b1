"""The daemon's settings: every fault of a file in one report, and what a reload takes over."""

from dataclasses import replace
from pathlib import Path

import pytest

from controller_asg import config
from controller_asg.config import Settings, changed, load_settings, public, reloaded, split_address
from controller_asg.model.errors import SpecError

GOOD = 'advertised_address = "10.0.0.5:7402"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "controller.toml"


def faults(file: Path, text: str) -> list[str]:
    """The faults of a file, without the file's own name."""
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_settings(file)
    assert all(fault.where.startswith(str(file)) for fault in caught.value.faults)
    return [str(fault).removeprefix(f"{file}: ") for fault in caught.value.faults]


def test_only_the_advertised_address_is_required(file):
    file.write_text(GOOD)
    assert load_settings(file) == Settings(advertised_address="10.0.0.5:7402")
    assert faults(file, "") == [
        "advertised_address: is missing; write host:port of agents_listen as instances reach it"
    ]


def test_whole_numbers_are_taken_for_seconds(file):
    file.write_text(GOOD + "silence_seconds = 3\n")
    assert load_settings(file).silence_seconds == 3.0


def test_every_fault_is_in_one_report_with_its_mend(file):
    text = (
        GOOD + 'silence_second = 3\nlog_level = "verbose"\nhistory_days = "14d"\nping_timeout_seconds = 0\n'
    )
    assert faults(file, text) == [
        "ping_timeout_seconds: 0 is below 0.1; write 0.1 or more",
        "history_days: '14d' is not a number; write a number",
        "log_level: 'verbose' is not known; write debug, info, warning or error",
        "silence_second: is no known key; write silence_seconds",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("agents_listen", "7402"),
        ("agents_listen", "0.0.0.0"),
        ("agents_listen", "0.0.0.0:0"),
        ("agents_listen", "0.0.0.0:70000"),
        ("agents_listen", "0.0.0.0:http"),
        ("agents_listen", ":7402"),
        ("http_listen", "fe80::1:7480"),
        ("http_listen", "http://127.0.0.1:7480"),
        ("advertised_address", "controller .example:7402"),
        ("advertised_address", "0.0.0.0:7402"),
        ("admin_socket", "run/admin.sock"),
        ("admin_socket", "/run/" + "x" * 120),
        ("ec2_endpoint_url", "localhost:5000"),
        ("ec2_endpoint_url", "http://"),
        ("ec2_endpoint_url", "http://localhost:x"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_at_its_key(file, key, value):
    text = "" if key == "advertised_address" else GOOD
    (fault,) = faults(file, f'{text}{key} = "{value}"\n')
    assert fault.startswith(f"{key}: ")
    assert "; write " in fault


@pytest.mark.parametrize("address", ["0.0.0.0:7403", "10.0.0.5:7403", "[::]:7403", "controller:7403"])
def test_the_admin_service_is_never_opened_to_other_machines(file, address):
    (fault,) = faults(file, f'{GOOD}admin_listen = "{address}"\n')
    assert "open to other machines" in fault


@pytest.mark.parametrize("address", ["127.0.0.1:7403", "127.9.9.9:7403", "[::1]:7403", "localhost:7403"])
def test_the_admin_service_may_listen_on_any_loopback_address(file, address):
    file.write_text(f'{GOOD}admin_listen = "{address}"\n')
    assert load_settings(file).admin_listen == address


def test_the_admin_service_may_do_without_an_address(file):
    file.write_text(f'{GOOD}admin_listen = ""\n')
    assert load_settings(file).admin_listen == ""


def test_what_is_no_toml_no_text_or_no_file_is_told_plainly(file):
    assert "is not TOML" in faults(file, "a = = 3\n")[0]
    file.write_bytes(b'region = "\xff"')
    with pytest.raises(SpecError, match="UTF-8"):
        load_settings(file)
    with pytest.raises(SpecError, match="No such file"):
        load_settings(file.parent / "missing.toml")


@pytest.mark.parametrize("value", ["nan", "inf", "1979-05-27", "[1]", "{a = 1}", "true"])
def test_a_toml_value_of_the_wrong_kind_is_a_fault_and_no_crash(file, value):
    assert faults(file, f"{GOOD}silence_seconds = {value}\n")


def test_a_changed_setting_is_either_taken_over_or_wants_a_restart():
    old = Settings(advertised_address="10.0.0.5:7402")
    new = replace(old, log_level="debug", silence_seconds=4.0, region="eu-central-1")
    assert changed(old, new) == (("silence_seconds", "log_level"), ("region",))
    assert changed(old, old) == ((), ())
    assert reloaded(old, new) == replace(old, log_level="debug", silence_seconds=4.0)


def test_every_reloadable_setting_is_a_setting():
    assert set(config.NAMES) > config.RELOADABLE
    assert "log_level" in config.RELOADABLE
    assert "store_url" not in config.RELOADABLE


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/lib/x.db", "sqlite:////var/lib/x.db"),
        ("postgresql+psycopg://asg:hunter2@db:5432/asg", "postgresql+psycopg://asg:***@db:5432/asg"),
        ("postgresql://asg@db/asg", "postgresql://asg@db/asg"),
        ("postgresql://asg:hunter/2@x@db/asg", "postgresql://asg:***@db/asg"),
        ("postgresql://db/asg?user=a&password=hunter2", "postgresql://db/asg?…"),
    ],
)
def test_the_stores_password_is_never_shown(url, shown):
    assert public(Settings(store_url=url))["store_url"] == shown


def test_an_ipv6_address_loses_its_brackets():
    assert split_address("[::1]:7403") == ("::1", 7403)
