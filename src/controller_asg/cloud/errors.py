"""What botocore raises, as the error that tells the caller what to do.

Two questions decide: what did EC2 answer (`CODES`), and where no answer came, could the call have reached EC2? A call
that only reads never is an UncertainError: nothing can have happened.

Codes: Amazon EC2 Developer Guide, "Error codes for the Amazon EC2 API" (errors-overview); those marked "common" are of
the list that every AWS service shares ("Common errors" of the API references).
"""

import re

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from controller_asg.model.errors import (
    CapacityError,
    CloudError,
    QuotaError,
    RejectedError,
    ThrottledError,
    UncertainError,
)

MESSAGE_LIMIT = 400  # characters; what EC2 says about permissions carries kilobytes of encoded text behind it

_WAIT = "wait: the same call is right later"
_ELSEWHERE = "another zone or instance type may have it"
_ACCOUNT = "raise the account's quota, or lower max_size"
_CREDENTIALS = (
    "give the controller valid credentials: instance profile, environment or shared credentials file"
)
_PERMISSION = "add the permission to the controller's IAM policy"
_CLOCK = "set this machine's clock: EC2 refuses requests that are minutes off"
_PARAMETERS = "mend the group's launch parameters"
_AGAIN = "the same call with the same client token is safe"

Meaning = tuple[type[CloudError], str]

CODES: dict[str, Meaning] = {
    # Too many calls.
    "RequestLimitExceeded": (ThrottledError, _WAIT),
    "Throttling": (ThrottledError, _WAIT),  # common
    "ThrottlingException": (ThrottledError, _WAIT),  # common, and SSM's
    "EC2ThrottledException": (ThrottledError, _WAIT),
    "TooManyRequestsException": (ThrottledError, _WAIT),  # botocore's own list of throttling codes
    "SlowDown": (ThrottledError, _WAIT),  # botocore's own list
    # Nothing to give there now.
    "InsufficientInstanceCapacity": (CapacityError, _ELSEWHERE),
    "InsufficientCapacity": (CapacityError, _ELSEWHERE),
    "InsufficientHostCapacity": (CapacityError, _ELSEWHERE),
    "InsufficientReservedInstanceCapacity": (CapacityError, _ELSEWHERE),
    "InsufficientVolumeCapacity": (CapacityError, _ELSEWHERE),
    "InsufficientFreeAddressesInSubnet": (CapacityError, "free addresses in the subnet, or name another one"),
    "InsufficientAddressCapacity": (CapacityError, _ELSEWHERE),
    "UnfulfillableCapacity": (CapacityError, _ELSEWHERE),
    "SpotMaxPriceTooLow": (CapacityError, _ELSEWHERE),
    # Its usual text: "Your requested instance type is not supported in your requested Availability Zone".
    "Unsupported": (CapacityError, _ELSEWHERE),
    "VolumeTypeNotAvailableInZone": (CapacityError, _ELSEWHERE),
    # Limits of the account.
    "InstanceLimitExceeded": (QuotaError, _ACCOUNT),
    "VcpuLimitExceeded": (QuotaError, _ACCOUNT),
    "MaxSpotInstanceCountExceeded": (QuotaError, _ACCOUNT),
    "MaxIOPSLimitExceeded": (QuotaError, _ACCOUNT),
    "VolumeLimitExceeded": (QuotaError, _ACCOUNT),
    "NetworkInterfaceLimitExceeded": (QuotaError, _ACCOUNT),
    "AddressLimitExceeded": (QuotaError, _ACCOUNT),
    "ResourceLimitExceeded": (QuotaError, _ACCOUNT),
    "ResourceCountExceeded": (QuotaError, _ACCOUNT),
    "InstanceCreditSpecification.LimitExceeded": (QuotaError, _ACCOUNT),
    "PendingVerification": (QuotaError, "wait until AWS has verified the account"),
    # Who we are, and what we may.
    "AuthFailure": (CloudError, _CREDENTIALS),
    "InvalidClientTokenId": (CloudError, _CREDENTIALS),  # common; an access key, not a ClientToken
    "UnrecognizedClientException": (CloudError, _CREDENTIALS),  # common
    "SignatureDoesNotMatch": (CloudError, _CREDENTIALS),  # common
    "IncompleteSignature": (CloudError, _CREDENTIALS),
    "MissingAuthenticationToken": (CloudError, _CREDENTIALS),
    "ExpiredToken": (CloudError, _CREDENTIALS),  # common
    "ExpiredTokenException": (CloudError, _CREDENTIALS),  # common
    "RequestExpired": (CloudError, _CLOCK),
    "UnauthorizedOperation": (CloudError, _PERMISSION),
    "AccessDenied": (CloudError, _PERMISSION),  # common
    "AccessDeniedException": (CloudError, _PERMISSION),  # common, and SSM's
    "OptInRequired": (CloudError, "subscribe the account to the service or the image's product"),
    "Blocked": (CloudError, "the account is blocked: ask AWS Support"),
    # Wrong for ever. Codes that begin as REJECTED_PREFIXES say are told by their beginning.
    "IdempotentParameterMismatch": (RejectedError, "this client token was used with other parameters"),
    "IdempotentInstanceTerminated": (RejectedError, "this client token's instances are terminated already"),
    "ParameterNotFound": (RejectedError, _PARAMETERS),  # SSM, GetParameter
    "OperationNotPermitted": (RejectedError, "take the instance's termination protection off"),
    "VPCIdNotSpecified": (RejectedError, "name subnets: the account has no default VPC"),
    "VPCResourceNotSpecified": (RejectedError, "name subnets: the account has no default VPC"),
    "UnsupportedOperation": (RejectedError, _PARAMETERS),
    "ValidationError": (RejectedError, _PARAMETERS),  # common
    "ValidationException": (RejectedError, _PARAMETERS),  # common, and SSM's
    "EncryptedVolumesNotSupported": (RejectedError, _PARAMETERS),
    "SecurityGroupsPerInstanceLimitExceeded": (RejectedError, _PARAMETERS),
    "SecurityGroupsPerInterfaceLimitExceeded": (RejectedError, _PARAMETERS),
    "TagLimitExceeded": (RejectedError, _PARAMETERS),
    # EC2 does not say whether it acted before it failed.
    "InternalError": (UncertainError, _AGAIN),
    "InternalFailure": (UncertainError, _AGAIN),
    "ServiceUnavailable": (UncertainError, _AGAIN),
    "Unavailable": (UncertainError, _AGAIN),
    "RequestTimeout": (UncertainError, _AGAIN),  # botocore's own list of codes to retry
}

REJECTED_PREFIXES = ("Invalid", "Missing", "Unknown", "Malformed")

# botocore's own: raised before a byte of the request left this machine.
_NOT_SENT = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.MetadataRetrievalError,
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.LoginError,
)
_NO_ANSWER = (
    boto.HTTPClientError,  # read timeout, connection closed, and what urllib3 raised beside those
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    ResponseParserError,  # not a BotoCoreError; a proxy's HTML page, or an answer that was cut
)
_PERMISSION_TEXT = re.compile(r"not authorized to perform:? ([a-z0-9-]+:[A-Za-z*]+)(?: on resource: (\S+))?")


# All that a call may raise; anything else is a bug of ours.
BOTOCORE_ERRORS = (boto.ClientError, boto.BotoCoreError, ResponseParserError, TimeoutError)


def translate(error: Exception, action: str, where: str, *, acts: bool) -> CloudError:
    """The error to raise instead of one of BOTOCORE_ERRORS.

    `action` is EC2's name of the call, `acts` says that it changes something.
    """
    if isinstance(error, boto.ClientError):
        return _answered(error, action, where, acts=acts)
    name = type(error).__name__
    if isinstance(error, _NOT_SENT) or (isinstance(error, boto.SSLError) and "CERTIFICATE" in str(error)):
        what = f"{action}: EC2 is unreachable: {_short(str(error))}"
        return CloudError(what, where, "check the network, the region and ec2_endpoint_url", name)
    if isinstance(error, _NO_CREDENTIALS):
        return CloudError(f"{action}: {_short(str(error))}", where, _CREDENTIALS, name)
    if isinstance(error, (*_NO_ANSWER, boto.SSLError, TimeoutError)):
        what = f"{action}: no answer: {_short(str(error) or name)}"
        return UncertainError(what, where, _AGAIN, name) if acts else CloudError(what, where, _WAIT, name)
    if isinstance(error, boto.ParamValidationError):
        return RejectedError(f"{action}: {_short(str(error))}", where, _PARAMETERS, name)
    if isinstance(error, boto.NoRegionError):
        return CloudError(f"{action}: no region is set", where, "set region, or AWS_REGION", name)
    assert isinstance(error, boto.BotoCoreError), error
    return CloudError(f"{action}: {_short(str(error))}", where, "", name)


def meaning_of(code: str, http_status: int) -> Meaning:
    """What an answer of EC2 tells the caller to do. `http_status` decides for codes that no table knows."""
    known = CODES.get(code)
    if known is not None:
        return known
    if code.startswith(REJECTED_PREFIXES):
        return RejectedError, _PARAMETERS
    if http_status >= 500:
        return UncertainError, _AGAIN
    return CloudError, ""


def missing_permission(error: CloudError) -> str:
    """The permission EC2 named, as "ec2:RunInstances on arn:…"; empty when `error` is no matter of permissions."""
    if error.code not in ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"):
        return ""
    found = _PERMISSION_TEXT.search(error.what)
    if found is None:
        return f"ec2:{error.what.partition(':')[0]}"
    permission, resource = found.group(1), found.group(2)
    return f"{permission} on {resource}" if resource else permission


def _answered(error: boto.ClientError, action: str, where: str, *, acts: bool) -> CloudError:
    answer = error.response
    code = answer.get("Error", {}).get("Code", "")
    message = answer.get("Error", {}).get("Message", "")
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind, mend = meaning_of(code, status)
    if kind is UncertainError and not acts:
        kind, mend = CloudError, _WAIT
    return kind(f"{action}: {_short(message) or f'HTTP {status}'} ({code})", where, mend, code)


def _short(text: str) -> str:
    for rest in (
        "Encoded authorization failure message",
        "invalid XML received",
    ):  # kilobytes that tell nothing
        text = text.partition(rest)[0]
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"
