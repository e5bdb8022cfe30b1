"""EC2's view as it was last described: who is there, since when someone is missing, and when EC2 answered."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

from controller_asg.model.instance import CloudInstance
from controller_asg.planner.snapshot import Answer

# At the closest spacing of two looks these are some seconds: more than a ping lasts.
ANSWERS_KEPT = 16


class CloudView:
    """Times are the clock's monotonic seconds."""

    def __init__(self) -> None:
        self.instances: dict[str, CloudInstance] = {}
        self.by_group: dict[str, dict[str, CloudInstance]] = {}
        self.observed = False
        # (asked, came) of the latest answers; a failed call empties it.
        self._answers: deque[tuple[float, float]] = deque(maxlen=ANSWERS_KEPT)
        # (when the first answer without it came, when the newest one was asked for).
        self._missing: dict[str, tuple[float, float]] = {}

    def update(
        self, seen: Iterable[CloudInstance], known: Iterable[str], asked_at: float, came_at: float
    ) -> set[str]:
        """Take a new answer over; returns the groups of which something differs.

        `known` are the ids that we have on record: their absence is timed, from one answer without them to another
        that was asked for later. An answer that took long, or no answer at all, makes nobody absent for longer.
        """
        before = self.by_group
        self.instances = {instance.instance_id: instance for instance in seen}
        grouped: dict[str, dict[str, CloudInstance]] = defaultdict(dict)
        for instance in self.instances.values():
            grouped[instance.group][instance.instance_id] = instance
        self.by_group = dict(grouped)
        self._missing = {
            instance_id: (self._missing.get(instance_id, (came_at, 0.0))[0], asked_at)
            for instance_id in known
            if instance_id not in self.instances
        }
        self.observed = True
        self._answers.append((asked_at, came_at))
        return {g for g in before.keys() | self.by_group.keys() if before.get(g) != self.by_group.get(g)}

    def forget(self, instance_ids: Iterable[str]) -> None:
        """They are on record no more; one that comes back is missing from then on, and not since before."""
        for instance_id in instance_ids:
            self._missing.pop(instance_id, None)

    def failed(self) -> None:
        """A call was not answered: what was answered before it says nothing of now."""
        self._answers.clear()

    def answers(self, now: float) -> tuple[Answer, ...]:
        return tuple(Answer(now - asked, now - came) for asked, came in self._answers)

    def missing_seconds(self, instance_id: str) -> float | None:
        """For how long EC2's answers have not shown it; None: the newest one does."""
        missing = self._missing.get(instance_id)
        return None if missing is None else max(0.0, missing[1] - missing[0])

    def group(self, name: str) -> Mapping[str, CloudInstance]:
        return self.by_group.get(name, {})
