"""Which decisions are worth a row: those that changed something or held something back, once each however often."""

from dataclasses import replace
from datetime import datetime

from controller_asg.model.decision import Decision

# A decision that only repeats is written again this often, so that its count and last time roughly survive a crash.
REPEAT_WRITE_SECONDS = 60.0


class DecisionLog:
    """`latest` is what the newest pass decided, whether it has a row or not."""

    def __init__(self) -> None:
        self.latest: Decision | None = None
        self._row: Decision | None = None
        self._row_written_at: datetime | None = None

    def to_write(self, decision: Decision) -> Decision | None:
        """What to journal of this decision now; None: nothing new in it."""
        if not decision.actions and not decision.steps and decision.desired_after == decision.desired_before:
            return None
        repeated = self._repeated(decision)
        if repeated is None:
            return decision
        assert self._row_written_at is not None
        age_seconds = (decision.last_at - self._row_written_at).total_seconds()
        return repeated if age_seconds >= REPEAT_WRITE_SECONDS else None

    def passed(self, decision: Decision, written: Decision | None, decision_id: int) -> None:
        """The pass is committed; `written` is what `to_write` gave."""
        if written is not None:
            self._row = self.latest = replace(written, decision_id=decision_id)
            self._row_written_at = decision.last_at
            return
        repeated = self._repeated(decision)
        if repeated is not None:
            self._row = repeated
        self.latest = repeated or decision

    def _repeated(self, decision: Decision) -> Decision | None:
        row = self._row
        if row is None or row.fingerprint() != decision.fingerprint():
            return None
        return replace(decision, decision_id=row.decision_id, first_at=row.first_at, count=row.count + 1)
