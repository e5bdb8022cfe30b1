"""Which instance goes when the group shrinks."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from controller_asg.model.instance import PENDING_STATES
from controller_asg.planner import leases
from controller_asg.planner.snapshot import Member
from controller_asg.planner.termination import Turn


def choose(candidates: Sequence[Member], count: int, wanted: Sequence[str], turn: Turn) -> tuple[Member, ...]:
    """`count` of the candidates, idle ones first: those a policy named, the youngest booting, by zone and `turn`.

    In service: the fullest zone first in which one may go, there by the group's termination policies ("Termination
    policies" in EC2's user guide). Protected ones, also by a lease, are never chosen.
    """
    free = [m for m in candidates if not leases.protected(m.instance, m.agent)]
    idle = [m for m in free if not leases.busy(m)]
    chosen = _among(idle, candidates, [], count, wanted, turn)
    if len(chosen) < count:
        working = [m for m in free if leases.busy(m)]
        chosen += _among(working, candidates, chosen, count - len(chosen), wanted, turn)
    return tuple(chosen)


def _among(
    those: Sequence[Member],
    candidates: Sequence[Member],
    going: Sequence[Member],
    count: int,
    wanted: Sequence[str],
    turn: Turn,
) -> list[Member]:
    free = {m.instance.instance_id: m for m in those}
    chosen = [free.pop(name) for name in wanted if name in free][:count]
    if len(chosen) == count:
        return chosen
    booting = sorted(
        (m for m in free.values() if m.instance.state in PENDING_STATES),
        key=lambda m: (m.instance.launched_at, m.instance.instance_id),
        reverse=True,
    )
    chosen += booting[: count - len(chosen)]
    gone = {m.instance.instance_id for m in (*going, *chosen)}
    crowd = Counter(
        m.instance.zone
        for m in candidates
        if m.instance.state not in PENDING_STATES and m.instance.instance_id not in gone
    )

    in_turn = defaultdict[str, list[Member]](list)  # by zone; whose turn comes first stands last
    for member in sorted(free.values(), key=turn, reverse=True):
        if member.instance.state not in PENDING_STATES:
            in_turn[member.instance.zone].append(member)
    while in_turn and len(chosen) < count:
        zone = min(in_turn, key=lambda zone: (-crowd[zone], turn(in_turn[zone][-1])))
        chosen.append(in_turn[zone].pop())
        crowd[zone] -= 1
        if not in_turn[zone]:
            del in_turn[zone]
    return chosen
