"""Is an instance alive? Three witnesses: its agent's session, MonitorC's own ping, and EC2.

Two of the three against it make it Unhealthy; one makes it Suspect, and a Suspect one is left alone. A verdict by
silence also wants EC2 to have been asked and to have answered while pings failed, and then one more ping to have
failed: a controller that can reach nobody judges nobody, and one that was just reconnected asks again first.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from controller_asg.model.immutable import immutable
from controller_asg.model.instance import AgentView, Ec2State, StatusCheck
from controller_asg.planner.snapshot import Member, Snapshot

# EC2's view may lag by some 30 s ("eventual consistency", EC2 API reference); missing for twice that is gone.
MISSING_SECONDS = 60.0
# One lost packet is no witness.
PINGS_AGAINST = 2
# Between two pings there is no longer pause than that (monitor's own pace, with some room).
PING_PAUSE_SECONDS = 0.25
# A group smaller than this has no mass.
MASS_SILENCE_MINIMUM = 4
MASS_SILENCE_WINDOW_SECONDS = 60.0
# Agents that were cut off come back within their longest pause between two tries (monitor_agent, 30 s).
SPOKE_AGAIN_SECONDS = 45.0

# An attribute of an enum's class is ten times as dear as a global, and this one is read for each instance in each pass.
IMPAIRED = StatusCheck.IMPAIRED
DEAD_STATES = frozenset({Ec2State.STOPPING, Ec2State.STOPPED, Ec2State.SHUTTING_DOWN, Ec2State.TERMINATED})


STOPPED_STATES = frozenset({Ec2State.STOPPING, Ec2State.STOPPED})


class Health(StrEnum):
    HEALTHY = "Healthy"
    SUSPECT = "Suspect"
    UNHEALTHY = "Unhealthy"


@immutable
class Verdict:
    """`confirmed`: EC2 itself says that the machine is not running. `told`: somebody has said so from outside."""

    health: Health
    reason: str
    confirmed: bool = False
    told: bool = False


def is_stopped(member: Member) -> bool:
    return member.cloud is not None and member.cloud.state in STOPPED_STATES


@dataclass(frozen=True, slots=True)
class Held:
    """A part of the group (a zone, or "" for all of it) in which nobody is replaced for being silent."""

    zone: str
    silent: int
    of_all: int


HEALTHY = Verdict(Health.HEALTHY, "")


def judge(member: Member, snapshot: Snapshot) -> Verdict:
    """The verdict on one instance. Within the grace period only EC2's own states count."""
    instance, cloud, agent = member.instance, member.cloud, member.agent
    if cloud is not None and cloud.state in DEAD_STATES:
        return Verdict(Health.UNHEALTHY, f"EC2 says {cloud.state}", confirmed=True)
    if member.missing_seconds is not None and member.missing_seconds >= MISSING_SECONDS:
        return Verdict(
            Health.UNHEALTHY, f"EC2 has not shown it for {member.missing_seconds:.0f} s", confirmed=True
        )
    silent = agent.silent_seconds if agent is not None else None
    by_silence = silent is not None and silent >= snapshot.silence_seconds
    by_pings = agent is not None and agent.ping_attempts >= PINGS_AGAINST
    by_checks = cloud is not None and cloud.status is IMPAIRED
    if not (by_silence or by_pings or by_checks or instance.marked_unhealthy):
        return HEALTHY
    since_at, grace_seconds = instance.in_service_at, snapshot.record.group.health_check_grace_period_seconds
    if since_at is not None and (snapshot.now - since_at).total_seconds() < grace_seconds:
        return HEALTHY
    if instance.marked_unhealthy:
        return Verdict(Health.UNHEALTHY, f"marked unhealthy by {instance.marked_unhealthy}", told=True)
    against = by_silence + by_pings + by_checks
    reasons = []
    if by_silence:
        reasons.append(f"silent for {silent:.1f} s")
    if agent is not None and by_pings:
        reasons.append(f"{agent.ping_attempts} pings unanswered")
    if by_checks:
        reasons.append("EC2 status checks impaired")
    reason = ", ".join(reasons)
    if against < 2:
        return Verdict(Health.SUSPECT, reason)
    pinged = agent.ping_failed_seconds if agent is not None else None
    if not by_checks and not _ec2_answers(snapshot, pinged or 0.0):
        return Verdict(Health.SUSPECT, f"{reason}; EC2 has not answered since")
    return Verdict(Health.UNHEALTHY, reason)


def _ec2_answers(snapshot: Snapshot, pinged_seconds: float) -> bool:
    """EC2 was asked while pings failed already, and answered long enough ago for a ping begun since to have failed."""
    ping_seconds = snapshot.ping_timeout_seconds + PING_PAUSE_SECONDS
    return any(a.asked_seconds <= pinged_seconds and a.came_seconds >= ping_seconds for a in snapshot.answers)


def hold_mass_silence(
    snapshot: Snapshot, serving: Sequence[Member], verdicts: dict[str, Verdict]
) -> list[Held]:
    """Turn verdicts by silence into Suspect while too many fell silent together.

    Those count together that fell silent within MASS_SILENCE_WINDOW_SECONDS; one that dies later, alone, is judged
    alone.

    The many are taken for a fault of ours (network, clock, controller), as Eureka's self-preservation and Kubernetes'
    zone disruption mode do. Everyone who is silent counts, judged or not, else the first few would be replaced before
    the rest falls under judgement; so do those that spoke again a moment ago, else the last to come back would be taken
    for dead. Deaths that EC2 confirms are no silence, and what somebody told from outside is not held.
    """
    if not any(verdict.health is Health.UNHEALTHY for verdict in verdicts.values()):
        return []
    silences = sorted(
        (seconds, member.instance.instance_id, member.instance.zone)
        for member in serving
        if not verdicts.get(member.instance.instance_id, HEALTHY).confirmed
        and (seconds := _fell_silent(member.agent, snapshot.silence_seconds)) is not None
    )
    sizes = Counter(member.instance.zone for member in serving)
    parts = [("", sizes.total()), *((zone, size) for zone, size in sorted(sizes.items()) if zone)]
    percentage = snapshot.record.group.mass_silence_percentage
    held = []
    for zone, size in parts:
        # The group's size is what it should be, too: each one that goes makes it no less of a mass.
        if max(size, 0 if zone else snapshot.record.desired_capacity) < MASS_SILENCE_MINIMUM:
            continue
        here = [(seconds, instance_id) for seconds, instance_id, its in silences if zone in ("", its)]
        together = _fell_together(here, percentage * size / 100)
        if together:
            held.append(Held(zone, len(together), size))
        for instance_id in together:
            verdict = verdicts.get(instance_id, HEALTHY)
            if verdict.health is Health.UNHEALTHY and not verdict.told:
                reason = f"{verdict.reason}; held, too many fell silent together"
                verdicts[instance_id] = replace(verdict, health=Health.SUSPECT, reason=reason)
    return held


def _fell_silent(agent: AgentView | None, silence_seconds: float) -> float | None:
    """How long ago it fell silent, if it is silent still or was until a moment ago."""
    if agent is None:
        return None
    if agent.silent_seconds is not None and agent.silent_seconds >= silence_seconds:
        return agent.silent_seconds
    if agent.last_silence is None:
        return None
    began, ended = agent.last_silence
    return agent.as_of - began if agent.as_of - ended <= SPOKE_AGAIN_SECONDS else None


def _fell_together(silences: Sequence[tuple[float, str]], at_least: float) -> set[str]:
    """All who belong to some window in which at least so many fell silent. `silences` are sorted by their length."""
    together: set[str] = set()
    first = 0
    for last, (seconds, _) in enumerate(silences):
        while seconds - silences[first][0] > MASS_SILENCE_WINDOW_SECONDS:
            first += 1
        if last + 1 - first >= at_least:
            together.update(instance_id for _, instance_id in silences[first : last + 1])
    return together
