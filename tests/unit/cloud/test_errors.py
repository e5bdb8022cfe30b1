"""What EC2 answers, and what botocore raises, as the class that tells the caller what to do."""

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from controller_asg.cloud.errors import CODES, MESSAGE_LIMIT, missing_permission, translate
from controller_asg.model.errors import (
    CapacityError,
    CloudError,
    QuotaError,
    RejectedError,
    ThrottledError,
    UncertainError,
)


def answer(code: str, status: int = 400, message: str = "why") -> boto.ClientError:
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(response, "RunInstances")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("RequestLimitExceeded", 503, ThrottledError),
        ("InsufficientInstanceCapacity", 500, CapacityError),
        ("InsufficientFreeAddressesInSubnet", 400, CapacityError),
        ("Unsupported", 400, CapacityError),
        ("VcpuLimitExceeded", 400, QuotaError),
        ("InstanceLimitExceeded", 400, QuotaError),
        ("MaxSpotInstanceCountExceeded", 400, QuotaError),
        ("InvalidAMIID.NotFound", 400, RejectedError),
        ("InvalidParameterCombination", 400, RejectedError),
        ("MissingParameter", 400, RejectedError),
        ("IdempotentParameterMismatch", 400, RejectedError),
        ("InternalError", 500, UncertainError),
        ("ServiceUnavailable", 503, UncertainError),
        ("Unavailable", 503, UncertainError),
        ("SomethingNew", 500, UncertainError),
        ("502", 502, UncertainError),
        ("SomethingNew", 400, CloudError),
        ("UnauthorizedOperation", 403, CloudError),
        ("InvalidClientTokenId", 401, CloudError),
        ("RequestExpired", 400, CloudError),
    ],
)
def test_an_answer_becomes_the_error_of_its_code(code: str, status: int, expected: type[CloudError]) -> None:
    error = translate(answer(code, status), "RunInstances", "group web", acts=True)
    assert type(error) is expected
    assert error.code == code
    assert str(error).startswith(f"group web: RunInstances: why ({code})")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (boto.ReadTimeoutError(endpoint_url="http://ec2"), UncertainError),
        (boto.ConnectionClosedError(endpoint_url="http://ec2"), UncertainError),
        (boto.HTTPClientError(error="broken pipe"), UncertainError),
        (boto.SSLError(endpoint_url="http://ec2", error="decryption failed"), UncertainError),
        (ResponseParserError("no XML"), UncertainError),
        (TimeoutError(), UncertainError),
        (boto.EndpointConnectionError(endpoint_url="http://ec2"), CloudError),
        (boto.ConnectTimeoutError(endpoint_url="http://ec2"), CloudError),
        (boto.SSLError(endpoint_url="http://ec2", error="CERTIFICATE_VERIFY_FAILED"), CloudError),
        (boto.ProxyConnectionError(proxy_url="http://proxy"), CloudError),
        (boto.NoCredentialsError(), CloudError),
        (boto.NoRegionError(), CloudError),
        (boto.ParamValidationError(report="count is text"), RejectedError),
    ],
)
def test_only_what_may_have_reached_ec2_is_uncertain(raised: Exception, expected: type[CloudError]) -> None:
    assert type(translate(raised, "RunInstances", "group web", acts=True)) is expected


@pytest.mark.parametrize(
    "raised", [boto.ReadTimeoutError(endpoint_url="http://ec2"), answer("InternalError", 500), TimeoutError()]
)
def test_a_call_that_only_reads_is_never_uncertain(raised: Exception) -> None:
    assert type(translate(raised, "DescribeInstances", "EC2", acts=False)) is CloudError


def test_unreachable_says_that_nothing_was_sent() -> None:
    error = translate(
        boto.EndpointConnectionError(endpoint_url="http://ec2"), "RunInstances", "web", acts=True
    )
    assert "unreachable" in str(error)
    assert error.mend


def test_every_code_has_a_mend() -> None:
    assert [code for code, (_, mend) in CODES.items() if not mend] == []


def test_no_credentials_says_where_to_give_them() -> None:
    assert "instance profile" in translate(boto.NoCredentialsError(), "RunInstances", "web", acts=True).mend


@pytest.mark.parametrize(
    ("message", "permission"),
    [
        (
            "You are not authorized to perform this operation. User: arn:aws:iam::1:user/a is not authorized "
            "to perform: iam:PassRole on resource: arn:aws:iam::1:role/web because no identity-based policy allows it. "
            "Encoded authorization failure message: " + "x" * 3000,
            "iam:PassRole on arn:aws:iam::1:role/web",
        ),
        ("You are not authorized to perform this operation.", "ec2:RunInstances"),
    ],
)
def test_the_missing_permission_is_named_and_the_encoded_rest_is_cut(message: str, permission: str) -> None:
    error = translate(answer("UnauthorizedOperation", 403, message), "RunInstances", "web", acts=True)
    assert missing_permission(error) == permission
    assert len(error.what) < MESSAGE_LIMIT + 100
    assert "xxx" not in error.what
