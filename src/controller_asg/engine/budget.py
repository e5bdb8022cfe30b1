"""What each group may spend of the ceiling that all of them share.

A pass is told what is left to it in the same step in which it plans, and what it plans is reserved before anyone else
is told: so two passes never break the ceiling together. What a group lacks of min_size is set aside, at its cheapest.
"""

from collections.abc import Iterable

from controller_asg.engine.memory import Memory
from controller_asg.model.errors import Fault
from controller_asg.model.group import Group
from controller_asg.model.offering import Prices
from controller_asg.planner import costs


class Budget:
    """`ceiling` in USD an hour; 0: none, and nothing is reserved."""

    def __init__(self, memory: Memory, prices: Prices, ceiling: float) -> None:
        self._memory = memory
        self.prices = prices
        self._ceiling = ceiling
        # (instances, what they cost) of a group by its records; absent: not counted yet
        self._settled: dict[str, tuple[int, float]] = {}
        self._reserved: dict[
            str, float
        ] = {}  # once what is being committed is; after a failure until the next pass

    def changed(self, prices: Prices, ceiling: float) -> None:
        """Settings or the file of prices were read again."""
        self.prices, self._ceiling = prices, ceiling
        self._settled.clear()

    def left(self, name: str) -> float | None:
        """For this group, with what it costs now; below 0 where the others already cost more. None: no ceiling."""
        if not self._ceiling:
            return None
        others = (group for group in self._memory.groups if group != name)
        return self._ceiling - sum(self._taken(group) for group in others)

    def reserve(self, name: str, cost: float | None) -> None:
        """From now on; until `spent`, what it cost before counts too."""
        if cost is not None:
            self._reserved[name] = max(cost, self._reserved.get(name, 0.0))

    def spent(self, name: str) -> None:
        """It is committed, and in memory."""
        self._reserved.pop(name, None)
        self._settled.pop(name, None)

    def cost(self, name: str) -> float:
        """What the group costs by its records, USD an hour."""
        return self._count(name)[1]

    def faults(self, groups: list[Group], source: str) -> Iterable[Fault]:
        """What of documents no ceiling allows."""
        names = {group.name for group in groups}
        others = [record.group for name, record in self._memory.groups.items() if name not in names]
        return costs.faults(groups, others, self.prices, self._ceiling or None, source)

    def _taken(self, name: str) -> float:
        """What it has, with what it lacks of min_size; or what it is about to have."""
        count, cost = self._count(name)
        record = self._memory.groups[name]
        lacking = costs.set_aside(record.group.launch, self.prices, max(0, record.min_size - count))
        return max(cost + lacking, self._reserved.get(name, 0.0))

    def _count(self, name: str) -> tuple[int, float]:
        if name not in self._settled:
            memory = self._memory
            offerings = costs.recorded(memory.by_group[name].values(), memory.activities_of(name))
            self._settled[name] = len(offerings), costs.cost(offerings, self.prices)
        return self._settled[name]
