"""The errors that callers act on. A class answers one question: what should the caller do?

AsgError
├── SpecError        mend the document; carries every fault of it
├── NotFoundError    the name is wrong
├── ConflictError    mend the state first, or read again and retry
├── StoreError       the store refused or is gone; nothing was changed
│   └── FencedError  a newer controller writes to this store: stop
└── CloudError       EC2 refused; nothing was changed
    ├── ThrottledError   wait, then the same call
    ├── CapacityError    another zone or type
    ├── QuotaError       a limit of the account: wait, or ask AWS
    ├── RejectedError    the parameters are wrong: mend the launch parameters
    └── UncertainError   it may have happened: replay with the same client token
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where in the operator's own terms, what, and the mend as an imperative."""

    where: str
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.mend}" if self.mend else "")


class AsgError(Exception):
    """An expected failure: what is wrong, where in the operator's own terms, and the mend as an imperative."""

    def __init__(self, what: str, where: str, mend: str = "") -> None:
        super().__init__(what, where, mend)  # `args` rebuilds the error, so it survives a process pool
        self.what, self.where, self.mend = what, where, mend

    def __str__(self) -> str:
        return str(Fault(self.where, self.what, self.mend))


class SpecError(AsgError):
    """A document is wrong. `faults` holds all that is wrong with it, never only the first."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        assert faults, "a SpecError without a fault explains nothing"
        super().__init__(faults[0].what, faults[0].where, faults[0].mend)
        self.args = (faults,)
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


class NotFoundError(AsgError):
    """No group or instance of ours has that name."""


class ConflictError(AsgError):
    """The present state does not allow it."""


class StoreError(AsgError):
    """The store refused or is gone. Nothing of the transaction is in it."""


class FencedError(StoreError):
    """A controller with a newer epoch writes to this store. This one must stop."""


class CloudError(AsgError):
    """EC2 refused. `code` is EC2's own error code."""

    def __init__(self, what: str, where: str, mend: str = "", code: str = "") -> None:
        super().__init__(what, where, mend)
        self.args = (what, where, mend, code)
        self.code = code


class ThrottledError(CloudError):
    """Too many calls. The same call later is right."""


class CapacityError(CloudError):
    """EC2 has no such instance to give in that zone now."""


class QuotaError(CloudError):
    """A limit of the account is reached."""


class RejectedError(CloudError):
    """EC2 will never accept these parameters."""


class UncertainError(CloudError):
    """No answer, or a broken one: it may have happened. Replay with the same client token."""
