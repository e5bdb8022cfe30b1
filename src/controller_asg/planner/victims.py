"""Which instance goes when the group shrinks."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from controller_asg.planner import leases
from controller_asg.planner.snapshot import Member
from controller_asg.planner.termination import Turn


def choose(candidates: Sequence[Member], count: int, wanted: Sequence[str], turn: Turn) -> tuple[Member, ...]:
    """`count` of the candidates, idle ones first: those a policy named, then by zone and `turn`.

    The fullest zone first in which one may go, there the youngest of those that never served, then by the group's
    termination policies ("Termination policies" in EC2's user guide). Protected ones, also by a lease, are never
    chosen; as those for EC2, busy ones come before zones.
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
    gone = {m.instance.instance_id for m in (*going, *chosen)}
    crowd = Counter(m.instance.zone for m in candidates if m.instance.instance_id not in gone)

    def place(member: Member) -> tuple[bool, tuple[float | str, ...]]:
        instance = member.instance
        if instance.is_new:
            return False, (-instance.launched_at.timestamp(), instance.instance_id)
        return True, turn(member)

    served, new = list[Member](), list[Member]()
    for member in free.values():
        # Asked before the property, for there are thousands.
        (new if member.instance.in_service_at is None and member.instance.is_new else served).append(member)
    in_turn = defaultdict[str, list[Member]](list)  # by zone; whose turn comes first stands last
    for member in (*sorted(served, key=turn, reverse=True), *sorted(new, key=place, reverse=True)):
        in_turn[member.instance.zone].append(member)
    while in_turn and len(chosen) < count:
        zone = min(in_turn, key=lambda zone: (-crowd[zone], place(in_turn[zone][-1])))
        chosen.append(in_turn[zone].pop())
        crowd[zone] -= 1
        if not in_turn[zone]:
            del in_turn[zone]
    return chosen
