"""The file of prices: what it may hold, and what is said of one that can't be read."""

from pathlib import Path

import pytest

from controller_asg.config import Settings
from controller_asg.model.errors import SpecError
from controller_asg.model.offering import Market
from controller_asg.prices import load_prices

SHIPPED = Path(__file__).resolve().parents[2] / "roles/controller/files/prices.yml"


def settings(file: Path | str, region: str = "us-east-1") -> Settings:
    return Settings(region=region, prices_file=str(file))


def test_the_shipped_file_knows_the_default_type_and_spot_costs_as_on_demand_where_nobody_says_less() -> None:
    prices = load_prices(settings(SHIPPED))
    assert prices.of("t2.micro", Market.SPOT) == prices.of("t2.micro", Market.ON_DEMAND) == 0.0116
    assert prices.of("x9.huge", Market.ON_DEMAND) is None
    assert not load_prices(settings(SHIPPED, "mars-1")).by_type
    assert not load_prices(settings("")).by_type


def test_json_is_taken_too(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"us-east-1": {"t3.nano": {"on_demand": 0.5, "spot": 0.25}}}')
    assert load_prices(settings(file)).of("t3.nano", Market.SPOT) == 0.25


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("us-east-1: {t3.nano: {ondemand: 1}}", "us-east-1.t3.nano"),
        ("us-east-1: {t3.nano: {on_demand: -1}}", "us-east-1.t3.nano"),
        ("us-east-1: {t3.nano: cheap}", "us-east-1.t3.nano"),
        ("us-east-1: [", "is not YAML"),
    ],
)
def test_a_fault_names_its_place(tmp_path: Path, text: str, place: str) -> None:
    file = tmp_path / "prices.yml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_prices(settings(file))
    assert place in str(caught.value)
    assert "prices" in str(caught.value)
    with pytest.raises(SpecError, match="can't be read"):
        load_prices(settings(tmp_path / "none.yml"))
