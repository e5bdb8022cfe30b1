"""A histogram of logarithms that forgets: what was seen lately weighs more. It finds the cheapest place to stand."""

import math
from typing import Any

RESCALE_AT = 1e12  # newer values weigh more and more; beyond it all weights are divided


class Histogram:
    """Values on a logarithmic scale from e**first on, in bins of `width`; the ends take what lies beyond them."""

    __slots__ = ("edges", "first", "growth", "top", "total", "unit", "weights", "width")

    def __init__(self, first: float, last: float, width: float, half_life: float) -> None:
        """`half_life`: after so many further values one weighs half."""
        count = round((last - first) / width)
        self.first, self.width = first, width
        self.edges = [math.exp(first + (index + 1) * width) for index in range(count)]  # upper ones
        self.growth = 0.5 ** (-1 / half_life)
        self.weights = [0.0] * count
        self.unit, self.total, self.top = 1.0, 0.0, 0

    @property
    def count(self) -> float:
        """How many of the newest values it would take to weigh as much as all."""
        return self.total / self.unit

    def add(self, logarithm: float) -> None:
        """The value's natural logarithm."""
        index = int((logarithm - self.first) / self.width)
        if index < 0:
            index = 0
        elif index >= len(self.weights):
            index = len(self.weights) - 1
        self.unit *= self.growth
        self.weights[index] += self.unit
        self.total += self.unit
        if index > self.top:
            self.top = index
        if self.unit > RESCALE_AT:
            self.weights = [weight / self.unit for weight in self.weights]
            self.total, self.unit = self.total / self.unit, 1.0

    def cheapest(self, price: float, scale: float = 1.0) -> float:
        """The x with the least `x * scale + price * P(value > x)`, at a bin's edge.

        Source: the newsvendor's problem, on an empirical distribution. An empty histogram says 1.
        """
        if not self.total:
            return 1.0
        price /= self.total
        above, least, cheapest = 0.0, math.inf, 1.0
        for index in range(self.top, -1, -1):
            risk = price * above
            if risk >= least:
                break
            cost = self.edges[index] * scale + risk
            if cost < least:
                least, cheapest = cost, self.edges[index]
            above += self.weights[index]
        return cheapest

    def cost(self, x: float, price: float) -> float:
        """`x + price * P(value > x)`; P is 0 of an empty histogram."""
        if not self.total:
            return x
        begin = min(max(math.ceil((math.log(x) - self.first) / self.width - 1e-9), 0), len(self.weights))
        return x + price * sum(self.weights[begin : self.top + 1]) / self.total

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"weights": self.weights[: self.top + 1], "unit": self.unit, "total": self.total}

    def load(self, document: dict[str, Any]) -> None:
        """The inverse of `to_dict`, into an empty histogram of the same shape."""
        weights = document["weights"]
        self.weights[: len(weights)] = weights
        self.top = len(weights) - 1
        self.unit, self.total = document["unit"], document["total"]
