"""What one group's policies remember: begun, moved forward by the passes, saved now and then, found after a restart.

The group's recorded demand is saved along with it, in the same commit.

A memory holds what was seen, so one that is a minute old is as true as a new one; it has learnt a minute less.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import structlog

from controller_asg.engine.recording import Recording
from controller_asg.model.errors import FencedError, StoreError
from controller_asg.model.record import Change, PolicyMemories
from controller_asg.model.scaling_policy import DemandTracking, Policy
from controller_asg.policy.demand import DemandMemory
from controller_asg.store.port import Store

log = structlog.get_logger()

SAVE_SECONDS = 60.0


class Remembering:
    """`stored` is the group's document in the store, "" when there is none. Times are the clock's monotonic seconds."""

    def __init__(self, group: str, stored: str = "") -> None:
        self.recording = Recording(group)
        self._group = group
        self._found = self._read(stored)  # what was saved of each policy, until its memory is asked for
        self._policies: tuple[Policy, ...] | None = None
        self._of: dict[str, list[Any]] = {}  # [metric, full] that a memory is of
        self._memories: dict[str, DemandMemory] = {}
        self._desired: int | None = None  # when it was saved last
        self._save_at: float | None = None
        self._saved = frozenset(self._found)

    def of(self, policies: tuple[Policy, ...]) -> Mapping[str, DemandMemory]:
        """By policy name, of those that have one. It goes with its policy, and begins anew with another metric."""
        if policies is not self._policies:
            of = {p.name: [p.metric, p.full] for p in policies if isinstance(p, DemandTracking)}
            self._memories = {name: self._memory(name, of[name]) for name in of}
            self._of, self._policies, self._found = of, policies, {}
        return self._memories

    async def save(self, store: Store, desired: int, now: float) -> None:
        """Once a minute, when the size of a group that remembers changed, and when a policy is gone.

        What fails is tried again. Raises FencedError alone. Groups that start together are spread over the minute.
        """
        if self._save_at is None:
            self._desired, self._save_at = desired, now + zlib.crc32(self._group.encode()) % SAVE_SECONDS
        gone = self._saved - self._memories.keys()
        minutes = tuple(self.recording.finished.values())
        due = now >= self._save_at
        if not (gone or (self._memories and (due or desired != self._desired)) or (due and minutes)):
            return
        document = {
            name: {"of": self._of[name], "memory": memory.to_dict()}
            for name, memory in self._memories.items()
        }
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
        try:
            memories = (PolicyMemories(self._group, text),) if self._memories or gone else ()
            await store.commit(Change(memories=memories, demand=minutes))
        except FencedError:
            raise
        except StoreError as error:
            log.warning("policy_memory_not_saved", group=self._group, error=str(error))
            return
        self.recording.saved(minutes)
        self._desired, self._save_at, self._saved = desired, now + SAVE_SECONDS, frozenset(document)

    def _memory(self, name: str, of: list[Any]) -> DemandMemory:
        if name in self._memories and self._of[name] == of:
            return self._memories[name]
        try:
            if name in self._found and self._found[name]["of"] == of:
                return DemandMemory.from_dict(self._found[name]["memory"])
        except (ValueError, TypeError, LookupError) as error:
            log.warning("policy_memory_dropped", group=self._group, policy=name, error=str(error))
        return DemandMemory()

    def _read(self, stored: str) -> dict[str, Any]:
        try:
            found = json.loads(stored or "{}")
            if isinstance(found, dict):
                return found
            what = "it is no mapping"
        except ValueError as error:
            what = str(error)
        log.warning("policy_memory_dropped", group=self._group, policy="", error=what)
        return {}
