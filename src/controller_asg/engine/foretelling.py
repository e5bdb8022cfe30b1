"""The forecasts of the groups' demand: made beside the passes from what the store has, and shown to them.

One takes some 15 ms, every REFRESH_SECONDS, of groups with a predictive policy alone.
"""

from collections.abc import Iterable
from datetime import timedelta

import structlog

from controller_asg.model.clock import Clock
from controller_asg.model.errors import FencedError, StoreError
from controller_asg.model.record import GroupRecord
from controller_asg.model.scaling_policy import Predictive
from controller_asg.policy.forecast import KEPT_DAYS, REFRESH_SECONDS, Forecast, foretell
from controller_asg.store.port import Store

log = structlog.get_logger()


class Foretelling:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._made: dict[str, tuple[float, Forecast | None]] = {}  # by group; when, monotonic

    def of(self, group: str) -> Forecast | None:
        """The newest one; None: there is none yet, or too little is recorded."""
        return self._made[group][1] if group in self._made else None

    async def refresh(self, records: Iterable[GroupRecord]) -> None:
        """Of those that want one, where the last is old or, after a step of the clock, of another time."""
        wanted = {
            record.group.name
            for record in records
            if any(isinstance(policy, Predictive) and policy.enabled for policy in record.group.policies)
        }
        self._made = {name: made for name, made in self._made.items() if name in wanted}
        for name in sorted(wanted):
            at, forecast = self._made.get(name, (0.0, None))
            now = self._clock.now().timestamp()
            covers = forecast is None or forecast.highest(now, now) is not None
            if name in self._made and covers and self._clock.monotonic() - at < REFRESH_SECONDS:
                continue
            try:
                self._made[name] = (self._clock.monotonic(), await self.make(name))
            except FencedError:
                raise
            except StoreError as error:
                log.warning("forecast_not_made", group=name, error=str(error))

    async def make(self, group: str) -> Forecast | None:
        """From what is recorded now. Raises StoreError."""
        now = self._clock.now()
        minutes = await self._store.demand(group, now - timedelta(days=KEPT_DAYS), now)
        return foretell(((each.minute_at.timestamp(), each.demand) for each in minutes), now.timestamp())
