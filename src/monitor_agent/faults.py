"""What is wrong with something that came from outside: a settings file, a request's body."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: where in the sender's own terms, what, and the mend as an imperative."""

    where: str
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.mend}" if self.mend else "")

    def document(self) -> dict[str, str]:
        return {"where": self.where, "what": self.what, "mend": self.mend}


class FaultsError(Exception):
    """All faults of one document, in the order of its keys. Nothing of the document was used."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(tuple(faults))
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)
