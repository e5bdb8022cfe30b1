"""`controller-asg why`: a group's decisions as sentences, the newest first."""

from collections.abc import Iterable, Iterator

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.cli.tables import moment, seconds_text


def why(group: pb.Group, decisions: Iterable[pb.Decision]) -> str:
    """What is true of the group now, then what was decided and by whose word."""
    lines = [_now(group), *(_condition(each) for each in group.conditions)]
    decided = False
    for decision in decisions:
        decided = True
        lines += ["", *_decision(decision)]
    if not decided:
        lines += ["", "No decision was made yet."]
    return "\n".join(lines)


def _now(group: pb.Group) -> str:
    in_service = group.instance_counts.get("InService", 0)
    bounds = f"between {group.min_size} and {group.max_size}"
    return f"{group.name} wants {group.desired_capacity} ({bounds}) and has {in_service} in service."


def _condition(condition: pb.Condition) -> str:
    return f"  ! {condition.message} ({condition.kind}, since {moment(condition.since)})"


def _decision(decision: pb.Decision) -> Iterator[str]:
    """Without `summary`, which is made of what follows here."""
    before, after = decision.desired_before, decision.desired_after
    change = f"stayed at {after}" if before == after else f"went from {before} to {after}"
    yield f"{moment(decision.first_at)}  {decision.group} {change}{_repeated(decision)}."
    for vote in decision.votes:
        if vote.HasField("capacity"):
            voted = "observes, and would have voted" if vote.observed else "voted"
            yield f"  {vote.policy} {voted} for {vote.capacity}: {vote.reason}"
        else:
            yield f"  {vote.policy} abstained: {vote.reason}"
    for step in decision.steps:
        if step.before == step.after:
            yield f"  {step.name} held it at {step.after}: {step.reason}"
        else:
            yield f"  {step.name} made {step.before} into {step.after}: {step.reason}"
    yield f"  Done: {'; '.join(decision.actions)}." if decision.actions else "  Nothing was started."


def _repeated(decision: pb.Decision) -> str:
    if decision.count <= 1:
        return ""
    seconds = (decision.last_at.ToNanoseconds() - decision.first_at.ToNanoseconds()) / 1e9
    return f" (decided {decision.count} times in {seconds_text(max(seconds, 0.0))})"
