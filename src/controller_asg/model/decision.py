"""A decision: what was seen, what each policy voted, which bound or guard changed the vote, what was done."""

from datetime import datetime

from controller_asg.model.immutable import immutable


@immutable
class Vote:
    """One policy's wish. `capacity` None: it abstains. `victims`: the instances it wants gone, in order.

    `consents`: it has no wish of its own now, and no objection when others scale in. `observed`: it is not counted.
    `on_missing_data`: it knows nothing, and falls back on its floor.
    """

    policy: str
    capacity: int | None
    reason: str
    victims: tuple[str, ...] = ()
    consents: bool = False
    observed: bool = False
    on_missing_data: bool = False


@immutable
class Step:
    """A bound or a guard that changed the wish, or held something back (`before == after`)."""

    name: str
    before: int
    after: int
    reason: str


@immutable
class Decision:
    """`decision_id` is 0 until the store gave it one. Equal decisions in a row are one record with a count."""

    group: str
    first_at: datetime
    last_at: datetime
    desired_before: int
    desired_after: int
    votes: tuple[Vote, ...]
    steps: tuple[Step, ...]
    actions: tuple[str, ...]
    summary: str
    count: int = 1
    decision_id: int = 0

    def fingerprint(self) -> tuple[object, ...]:
        """What makes two decisions the same one repeated: everything but times and the numbers inside reasons."""
        votes = tuple((vote.policy, vote.capacity) for vote in self.votes)
        steps = tuple((step.name, step.before, step.after) for step in self.steps)
        return (self.desired_before, self.desired_after, votes, steps, self.actions)
