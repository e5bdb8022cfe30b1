"""Carrying an activity out: one call, repeated with the same token until EC2 has said what became of it."""

import random
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from controller_asg.cloud.port import Cloud
from controller_asg.model.activity import Activity, ActivityKind
from controller_asg.model.clock import Clock
from controller_asg.model.errors import CloudError, RejectedError, ThrottledError, UncertainError
from controller_asg.planner.snapshot import Outcome

log = structlog.get_logger()

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 20.0
# After that long without a clear word a launch is given up; what it made after all is adopted by its tags.
LAUNCH_LIMIT_SECONDS = 300.0
CONSOLE_LIMIT_CHARACTERS = 8_000


class Actor:
    """`deliver` gets the outcome of each call; `random_source` spreads retries (full jitter)."""

    def __init__(
        self,
        cloud: Cloud,
        clock: Clock,
        random_source: random.Random,
        deliver: Callable[[str, Outcome], None],
    ) -> None:
        self._cloud = cloud
        self._clock = clock
        self._random = random_source
        self._deliver = deliver

    async def act(self, activity: Activity, keep_console: bool = False) -> None:
        if activity.kind is ActivityKind.LAUNCH:
            outcome = await self._launch(activity)
        elif activity.kind is ActivityKind.ATTACH:
            outcome = await self._attach(activity)
        elif activity.kind is ActivityKind.DETACH:
            outcome = await self._repeat(
                activity, partial(self._cloud.detach_instances, activity.instance_ids)
            )
        else:
            outcome = await self._terminate(activity, keep_console)
        self._deliver(activity.group, outcome)

    async def _launch(self, activity: Activity) -> Outcome:
        assert activity.launch is not None
        started, attempt = self._clock.monotonic(), 0
        while True:
            try:
                instances = await self._cloud.run_instances(activity.launch)
                return Outcome(activity.activity_id, instances=instances)
            except (ThrottledError, UncertainError) as error:
                if self._clock.monotonic() - started >= LAUNCH_LIMIT_SECONDS:
                    return Outcome(activity.activity_id, error)
                await self._wait(activity, attempt, error)
                attempt += 1
            except CloudError as error:
                return Outcome(activity.activity_id, error)
            except Exception as error:
                # A bug of ours must not leave the activity open for ever: nobody knows what was done, so it is told.
                log.exception("launch_broken", group=activity.group, activity_id=activity.activity_id)
                return Outcome(
                    activity.activity_id, UncertainError(f"the call broke: {error!r}", "RunInstances")
                )

    async def _attach(self, activity: Activity) -> Outcome:
        """Repeated until EC2 has said clearly that the tags are there, or never will be."""
        (instance_id,) = activity.instance_ids
        attempt = 0
        while True:
            try:
                instance = await self._cloud.attach_instance(
                    activity.group, activity.activity_id, instance_id
                )
                return Outcome(activity.activity_id, instances=(instance,))
            except (ThrottledError, UncertainError) as error:
                await self._wait(activity, attempt, error)
                attempt += 1
            except CloudError as error:
                return Outcome(activity.activity_id, error)

    async def _terminate(self, activity: Activity, keep_console: bool) -> Outcome:
        details = await self._console(activity.instance_ids) if keep_console else ""
        call = partial(self._cloud.terminate_instances, activity.instance_ids)
        return await self._repeat(activity, call, details)

    async def _repeat(
        self, activity: Activity, call: Callable[[], Awaitable[None]], details: str = ""
    ) -> Outcome:
        """For as long as it takes; only what EC2 will never do (its termination protection) is told at once.

        The planner asks again later: what was decided is never given up.
        """
        attempt = 0
        while True:
            try:
                await call()
                return Outcome(activity.activity_id, details=details)
            except RejectedError as error:
                return Outcome(activity.activity_id, error, details=details)
            except CloudError as error:
                await self._wait(activity, attempt, error)
            except Exception as error:
                log.exception("call_broken", group=activity.group, activity_id=activity.activity_id)
                await self._wait(activity, attempt, CloudError(f"the call broke: {error!r}", activity.kind))
            attempt += 1

    async def _console(self, instance_ids: tuple[str, ...]) -> str:
        parts = []
        for instance_id in instance_ids:
            try:
                text = await self._cloud.console_output(instance_id)
            except CloudError as error:
                text = f"(no console: {error})"
            parts.append(f"{instance_id}:\n{text[-CONSOLE_LIMIT_CHARACTERS:]}")
        return "\n".join(parts)

    async def _wait(self, activity: Activity, attempt: int, error: CloudError) -> None:
        longest = min(FIRST_RETRY_SECONDS * 2 ** min(attempt, 16), LONGEST_RETRY_SECONDS)
        log.warning(
            "call_retried",
            group=activity.group,
            activity_id=activity.activity_id,
            attempt=attempt,
            error=str(error),
        )
        await self._clock.sleep(self._random.uniform(longest / 4, longest))
