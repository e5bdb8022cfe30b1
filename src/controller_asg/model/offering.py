"""What EC2 is asked for: a type, in a zone, on a market; and what an hour of it costs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Market(StrEnum):
    """EC2's purchase options that we use; its InstanceLifecycle is `spot`, or absent."""

    __hash__ = str.__hash__

    ON_DEMAND = "on_demand"
    SPOT = "spot"


class Offering(NamedTuple):
    """`zone` "": every zone, or one that EC2 chooses."""

    zone: str
    instance_type: str
    market: Market

    def __str__(self) -> str:
        return f"{self.instance_type} {self.market}" + (f" in {self.zone}" if self.zone else "")


@dataclass(frozen=True, slots=True)
class Prices:
    """USD an hour of one instance, by type and market, in one region. `source` is where an operator mends them."""

    by_type: Mapping[str, Mapping[Market, float]] = field(default_factory=dict)
    region: str = ""
    source: str = ""

    def of(self, instance_type: str, market: Market) -> float | None:
        """None: unknown. A type without a spot price costs as on demand, which EC2 never charges more than for spot."""
        prices = self.by_type.get(instance_type, {})
        return prices.get(market, prices.get(Market.ON_DEMAND))

    def at_most(self, instance_type: str, market: Market) -> float:
        """As `of`; an unknown one is dearer than any."""
        price = self.of(instance_type, market)
        return math.inf if price is None else price
