"""One call to EC2: its turn in the limiter, a thread to block in, a bound on its time, and its error translated.

boto3 blocks, so calls run in threads of our own. Launches, terminations and what only reads have threads apart: when
EC2 hangs on one of them, the others still go out at once. A thread can't be cancelled; botocore's timeouts end it.
"""

import asyncio
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import botocore.utils
from botocore.config import Config

from controller_asg.cloud.errors import BOTOCORE_ERRORS, translate
from controller_asg.cloud.limiter import Limiter, Priority
from controller_asg.model.clock import Clock
from controller_asg.model.errors import CloudError, ThrottledError

if TYPE_CHECKING:
    from types_boto3_ec2.client import EC2Client

CONNECT_TIMEOUT_SECONDS = 3.0
READ_TIMEOUT_SECONDS = 10.0  # between two pieces of an answer
# Of one call with all its parts, for an answer may trickle: name lookup, connect, credentials, read.
CALL_TIMEOUT_SECONDS = 30.0
LAUNCHING_THREADS = 4
TERMINATING_THREADS = 2
READING_THREADS = 4
# Calls that EC2 throttled are made again so often, each after the limiter's backoff; then the caller is told.
THROTTLED_ATTEMPTS = 3

Answer = TypeVar("Answer")


class Ec2Calls:
    """The one EC2 client of a region. It is built at the first call, in a thread: that reads files and may ask IMDS."""

    def __init__(
        self,
        region: str,
        endpoint_url: str,
        clock: Clock,
        chance: random.Random,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
        build: Callable[[str], Any] | None = None,
    ) -> None:
        """`build` makes the client of a service where it is not boto3's, as in the simulated world."""
        self._read_timeout_seconds = read_timeout_seconds
        self._region = region
        self._endpoint_url = endpoint_url
        self._limiter = Limiter(clock, chance)
        self._reading = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="ec2-read")
        self._changing = {
            "RunInstances": ThreadPoolExecutor(LAUNCHING_THREADS, thread_name_prefix="ec2-launch"),
            "TerminateInstances": ThreadPoolExecutor(TERMINATING_THREADS, thread_name_prefix="ec2-terminate"),
        }
        tagging = ThreadPoolExecutor(1, thread_name_prefix="ec2-tag")
        self._changing |= {"CreateTags": tagging, "DeleteTags": tagging}
        self._building = threading.Lock()
        self._session: boto3.session.Session | None = None
        self._clients: dict[str, Any] = {}
        self._build = build or self._build_by_boto3

    async def read(self, action: str, where: str, ask: Callable[["EC2Client"], Answer]) -> Answer:
        """The answer to a call that changes nothing. Never raises UncertainError."""
        return await self._call(action, where, lambda: ask(self._client("ec2")), acts=False)

    async def change(
        self, action: str, where: str, ask: Callable[["EC2Client"], Answer], instances: int
    ) -> Answer:
        """The answer to a call that launches or terminates `instances`, or puts tags on or off (0)."""
        return await self._call(
            action, where, lambda: ask(self._client("ec2")), acts=True, instances=instances
        )

    async def dry_run(self, action: str, where: str, ask: Callable[["EC2Client"], object]) -> None:
        """Returns when EC2 would take the call. It counts as one of EC2's `action`, and waits behind the real ones."""
        try:
            await self._call(
                action, where, lambda: ask(self._client("ec2")), acts=False, priority=Priority.CHECK
            )
        except CloudError as error:
            if error.code != "DryRunOperation":
                raise

    async def ssm_parameter(self, name: str, where: str) -> str:
        """The value of a parameter in the Systems Manager's store. Its client is made at the first use only."""
        answer = await self._call(
            "GetParameter", where, lambda: self._client("ssm").get_parameter(Name=name), acts=False
        )
        value: str = answer["Parameter"]["Value"]
        return value

    def close(self) -> None:
        """Calls that wait for a thread are dropped; those that run end by their timeouts, unheard."""
        for pool in (self._reading, *self._changing.values()):
            pool.shutdown(wait=False, cancel_futures=True)
        with self._building:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    async def _call(
        self,
        action: str,
        where: str,
        ask: Callable[[], Answer],
        *,
        acts: bool,
        instances: int = 0,
        priority: Priority = Priority.ORDER,
    ) -> Answer:
        for attempt in range(1, THROTTLED_ATTEMPTS + 1):
            await self._limiter.turn(action, instances, priority)
            try:
                return await self._once(action, where, ask, acts=acts)
            except ThrottledError:
                self._limiter.throttled(action, instances)
                if attempt == THROTTLED_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, action: str, where: str, ask: Callable[[], Answer], *, acts: bool) -> Answer:
        pool = self._changing[action] if acts else self._reading
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                answer = await asyncio.get_running_loop().run_in_executor(pool, ask)
        except BOTOCORE_ERRORS as error:
            told = translate(error, action, where, acts=acts)
            if not isinstance(told, ThrottledError):
                self._limiter.answered(action)
            raise told from error
        self._limiter.answered(action)
        return answer

    def _client(self, service: str) -> Any:
        client = self._clients.get(service)
        if client is None:
            with self._building:  # two threads may come for the first one
                client = self._clients.get(service) or self._build(service)
                self._clients[service] = client
        return client

    def _build_by_boto3(self, service: str) -> Any:
        if self._session is None:
            region = self._region or os.environ.get("AWS_REGION") or None
            session = boto3.session.Session(region_name=region)
            if session.region_name is None:
                # IMDSv2, one second, one attempt: botocore's own settings for it.
                region = botocore.utils.InstanceMetadataRegionFetcher().retrieve_region()
                session = boto3.session.Session(region_name=region)
            self._session = session
        # An interface endpoint of EC2 in a VPC answers for EC2 only; a local EC2 answers for every service.
        ec2_only = service != "ec2" and "amazonaws.com" in self._endpoint_url
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=self._read_timeout_seconds,
            # botocore's own retries would hide throttling from the limiter and double what is uncertain.
            retries={"total_max_attempts": 1},
            max_pool_connections=LAUNCHING_THREADS + TERMINATING_THREADS + READING_THREADS + 1,
            user_agent_extra="controller-asg",
        )
        endpoint_url = None if ec2_only else self._endpoint_url or None
        make: Callable[..., Any] = self._session.client
        try:
            return make(service, endpoint_url=endpoint_url, config=config)
        except ValueError as error:  # botocore's, for a URL that is none
            raise CloudError(str(error), "ec2_endpoint_url", "write a URL: https://host") from error
