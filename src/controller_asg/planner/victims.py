"""Which instance goes when the group shrinks."""

from collections import Counter
from collections.abc import Sequence

from controller_asg.model.instance import PENDING_STATES
from controller_asg.planner.snapshot import Member


def choose(
    candidates: Sequence[Member], count: int, wanted: Sequence[str], launch_version: str
) -> tuple[Member, ...]:
    """`count` of the candidates: those a policy named, then the youngest still booting, then by zone and version.

    In service: the fullest zone first in which one may go, there one with outdated launch parameters, there the oldest
    (EC2's Default termination policy, "Termination policies" in its user guide). Protected ones are never chosen.
    """
    free = {m.instance.instance_id: m for m in candidates if not m.instance.protected_from_scale_in}
    chosen = [free.pop(name) for name in wanted if name in free][:count]
    if len(chosen) == count:
        return tuple(chosen)
    booting = sorted(
        (m for m in free.values() if m.instance.state in PENDING_STATES),
        key=lambda m: (m.instance.launched_at, m.instance.instance_id),
        reverse=True,
    )
    chosen += booting[: count - len(chosen)]
    rest = [m for m in free.values() if m.instance.state not in PENDING_STATES]
    gone = {m.instance.instance_id for m in chosen}
    crowd = Counter(
        m.instance.zone
        for m in candidates
        if m.instance.state not in PENDING_STATES and m.instance.instance_id not in gone
    )
    while rest and len(chosen) < count:
        goes = min(
            rest,
            key=lambda m: (
                -crowd[m.instance.zone],
                m.instance.launch_version == launch_version,
                m.instance.launched_at,
                m.instance.instance_id,
            ),
        )
        rest.remove(goes)
        crowd[goes.instance.zone] -= 1
        chosen.append(goes)
    return tuple(chosen)
