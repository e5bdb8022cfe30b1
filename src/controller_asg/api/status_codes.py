"""The one table that turns errors into codes, gRPC's and HTTP's.

INVALID_ARGUMENT: wrong in any state. FAILED_PRECONDITION: mend the state first. UNAVAILABLE: the same call later.
INTERNAL is a bug of ours and nothing else, so it is not in the table.
"""

from grpc import StatusCode

from controller_asg.model import errors
from controller_asg.model.errors import AsgError, Fault, SpecError

CODES: dict[type[AsgError], tuple[StatusCode, int]] = {
    errors.SpecError: (StatusCode.INVALID_ARGUMENT, 400),
    errors.NotFoundError: (StatusCode.NOT_FOUND, 404),
    errors.ConflictError: (StatusCode.FAILED_PRECONDITION, 409),
    errors.StoreError: (StatusCode.UNAVAILABLE, 503),
    errors.CloudError: (StatusCode.UNAVAILABLE, 503),
    errors.QuotaError: (StatusCode.FAILED_PRECONDITION, 409),
    errors.RejectedError: (StatusCode.INVALID_ARGUMENT, 400),
}

BUG = Fault(
    "the controller", "failed at this call by a bug of its own", "look at `journalctl -u controller-asg`"
)


def codes_of(error: AsgError) -> tuple[StatusCode, int]:
    """(gRPC's code, HTTP's) of the nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return StatusCode.INTERNAL, 500


def faults_in(error: AsgError) -> tuple[Fault, ...]:
    """Everything that an error says is wrong; one fault but for documents."""
    return error.faults if isinstance(error, SpecError) else (Fault(error.where, error.what, error.mend),)
