"""What the engine needs of durable state. One writer: every commit carries its epoch."""

from datetime import datetime
from typing import Protocol

from controller_asg.model.activity import Activity
from controller_asg.model.decision import Decision
from controller_asg.model.record import Change, DemandMinute, PolicyMemories, State


class Store(Protocol):
    """All methods raise StoreError when the store refuses or is gone."""

    async def open(self) -> int:
        """Take the store over with a new epoch, greater than any before, and return it."""

    async def load(self) -> State: ...

    async def memories(self) -> tuple[PolicyMemories, ...]:
        """By group, of those that have some."""

    async def commit(self, change: Change) -> int:
        """Write all of it durably, or nothing. Returns the decision's id (0 when there was none).

        Raises FencedError when another controller has opened the store since.
        """

    async def activities(
        self, group: str = "", limit: int = 50, open_only: bool = False
    ) -> tuple[Activity, ...]:
        """Newest first; of all groups when `group` is empty."""

    async def decisions(self, group: str, limit: int = 20) -> tuple[Decision, ...]:
        """Newest first."""

    async def demand(self, group: str, since: datetime, until: datetime) -> tuple[DemandMinute, ...]:
        """Those that begin then, `until` left out, the oldest first. A minute that nobody reported in is absent."""

    async def prune(self, before: datetime, demand_before: datetime) -> int:
        """Forget ended activities and decisions whose last time is older, and minutes of demand.

        Returns how many went.
        """

    async def close(self) -> None: ...
