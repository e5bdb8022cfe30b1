"""The whole agent: its parts made and wired, one TaskGroup that owns what runs, a clean stop, and the reload."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2

from monitor_agent import __version__, busy, drain
from monitor_agent.application_metrics import ApplicationMetrics
from monitor_agent.busy import Busy
from monitor_agent.busy_sources import BusySources
from monitor_agent.channel import bind, make_server, may_command
from monitor_agent.command import watch_without_threads
from monitor_agent.drain import Drain
from monitor_agent.faults import FaultsError
from monitor_agent.hooks import Hooks
from monitor_agent.https import has_https, needs_https
from monitor_agent.identity import Imds, read_boot_id
from monitor_agent.latest import Latest
from monitor_agent.lease_files import CLOCK_FILE_NAME, WallClock
from monitor_agent.local_http import LocalHttp, is_bearer
from monitor_agent.local_routes import LocalRoutes
from monitor_agent.locate import Locator
from monitor_agent.log import EventLog
from monitor_agent.memory import Memory
from monitor_agent.monitor_service import SERVICE_NAME, MonitorService, add_services
from monitor_agent.notify import Notifier
from monitor_agent.sampler import ProcReader, Sampler
from monitor_agent.session import AgentFacts, ControllerSession, SessionState
from monitor_agent.settings import Settings, changed_keys, read_settings, read_token

GRACE_SECONDS = 1.0  # for calls that run when the agent stops
NEEDS_RESTART = ("monitor_listen", "http_listen")
OF_THE_SESSION = (
    "controller_address",
    "controller_srv_name",
    "controller_tag",
    "ec2_endpoint_url",
    "region",
    "instance_id",
    "imds_url",
)

log = EventLog(__name__)


class Agent:
    """Runs until `stop` is set; `reload` makes it read its settings file again."""

    def __init__(
        self,
        settings: Settings,
        *,
        token: str | None = None,
        config_path: Path | None = None,
        notifier: Notifier | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self.settings, self._token, self._config_path = settings, token, config_path
        self._notifier = notifier or Notifier({})
        self._proc = proc
        self._interval_seconds: float | None = None  # the controller's, once it has said
        self._settings_fault = ""
        self._ready = False
        self.stop, self.reload = asyncio.Event(), asyncio.Event()
        self.monitor_port = self.http_port = 0  # as bound
        self.latest = Latest(time.monotonic)
        wake = self.latest.wake.set
        self._boot_id = read_boot_id(proc)
        self.drain = Drain(
            lambda: self.settings.drain_command,
            lambda: self.settings.resume_command,
            lambda: self.settings.state_dir,
            self._look_again,
            wake,
            Memory(lambda: self.settings.state_dir / drain.FILE_NAME, self._boot_id),
        )
        self.busy = Busy(wake, lambda: self.settings.state_dir / busy.FILE_NAME, self._boot_id)
        self._clock = WallClock(Memory(lambda: self.settings.state_dir / CLOCK_FILE_NAME, self._boot_id))
        self._busy_sources = BusySources(self.settings, self.busy, self._clock, proc)
        self.hooks = Hooks(lambda: self.settings.hooks_directory, lambda: self.settings.state_dir, wake)
        self._sampler = Sampler(
            ProcReader(proc),
            self.latest,
            self.interval_seconds,
            beat=self._beat,
            beat_seconds=self._notifier.watchdog_seconds and self._notifier.watchdog_seconds / 3,
        )
        self.session: ControllerSession

    async def run(self) -> None:
        """Serve until stopped. Raises OSError when an address can't be bound."""
        server = make_server()
        self.monitor_port = bind(server, self.settings.monitor_listen)
        self.session = self._make_session()
        service = MonitorService(self.latest, self.drain, lambda: self.session.instance_id, self._may_command)
        health = add_services(server, service)
        routes = LocalRoutes(
            self.latest, self.busy, self.drain, self.session, self.interval_seconds, time.monotonic
        )
        http = LocalHttp(routes.by_path(), lambda: self._token)
        try:
            await server.start()
            await health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
            self.http_port = await http.start(self.settings.http_listen)
            log.info(
                "agent_started", version=__version__, monitor_port=self.monitor_port, http_port=self.http_port
            )
            await self._run_tasks()
        finally:
            self._notifier.stopping()
            await health.enter_graceful_shutdown()
            await http.stop()
            await server.stop(GRACE_SECONDS)
            log.info("agent_stopped")

    def interval_seconds(self) -> float:
        return self._interval_seconds or self.settings.sample_interval_seconds

    async def _run_tasks(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._sampler.run(), name="sampler"),
                tasks.create_task(self.session.run(), name="session"),
                tasks.create_task(self.drain.run(), name="drain"),
                tasks.create_task(self.hooks.run(), name="hooks"),
                tasks.create_task(self._follow_settings(tasks), name="settings"),
            ]
            await self.stop.wait()
            self._notifier.stopping()
            await self.session.leave()
            for task in running:
                task.cancel()

    async def _follow_settings(self, tasks: asyncio.TaskGroup) -> None:
        """Reread the settings on request; the sources of metrics and leases begin anew with each."""
        while True:
            self._busy_sources = BusySources(
                self.settings, self.busy, self._clock, self._proc, self._busy_sources
            )
            sources = [
                tasks.create_task(
                    ApplicationMetrics(self.settings, self.latest).run(), name="application:sources"
                ),
                tasks.create_task(self._busy_sources.run(), name="busy:sources"),
            ]
            try:
                await self.reload.wait()
                self.reload.clear()
                self._reread()
            finally:
                self._busy_sources.close()
                for source in sources:
                    source.cancel()

    async def _look_again(self) -> None:
        """Ask what holds leases; once more when a reload put other sources in place meanwhile."""
        asked: BusySources | None = None
        while asked is not self._busy_sources:
            asked = self._busy_sources
            await asked.look_again()

    def _reread(self) -> None:
        """Take over a changed settings file; a broken one changes nothing and is shown in the status."""
        if self._config_path is None:
            return
        self._notifier.reloading()
        try:
            settings = read_settings(self._config_path)
            token = read_token(settings)
        except FaultsError as error:
            self._settings_fault = str(error.faults[0])
            log.error(
                "settings_refused",
                faults="; ".join(map(str, error.faults)),
                mend="mend the file, reload again",
            )
        else:
            self._settings_fault = ""
            self._adopt(settings, token)
        self._notifier.ready()
        self._show_status()

    def _adopt(self, settings: Settings, token: str | None) -> None:
        changed = changed_keys(self.settings, settings)
        self.settings, self._token = settings, token
        if any(key in OF_THE_SESSION for key in changed):
            self.session.relocate(*self._ways())
        self._sampler.interval_changed()
        log.info("settings_reloaded", changed=",".join(changed) or "nothing")
        late = [key for key in changed if key in NEEDS_RESTART]
        if needs_https(settings) and not has_https():
            late.append("https")
        if late:
            log.warning("settings_need_restart", keys=",".join(late))

    def _make_session(self) -> ControllerSession:
        me = AgentFacts(self.monitor_port, __version__, self._boot_id)
        return ControllerSession(
            *self._ways(),
            self.latest,
            self.drain,
            self.hooks,
            self.busy,
            me,
            set_interval=self._set_interval,
            changed=self._show_status,
            is_stopping=self.stop.is_set,
        )

    def _ways(self) -> tuple[Locator, Callable[[], Awaitable[str]]]:
        """How the settings say to find the controller, and the instance's own id."""
        settings, imds = self.settings, Imds(self.settings.imds_url)

        async def find_instance_id() -> str:
            return settings.instance_id or await imds.instance_id()

        return Locator(settings, imds), find_instance_id

    def _set_interval(self, seconds: float) -> None:
        if seconds != self._interval_seconds:
            self._interval_seconds = seconds
            self._sampler.interval_changed()

    def _may_command(self, peer: str, authorization: str) -> bool:
        token = self._token
        if token is not None and is_bearer(authorization, token):
            return True
        peers = self.session.controller_ips, self.settings.command_peers
        return may_command(peer, *peers, is_local_free=token is None)

    def _beat(self) -> None:
        self._notifier.watchdog()
        if not self._ready:
            self._ready = True
            self._notifier.ready()

    def _show_status(self) -> None:
        session = self.session
        if session.state is SessionState.UP:
            line = f"in session with {session.controller}, group {session.group or 'unknown'}"
        else:
            line = f"no session with {session.controller}: {session.reason or session.state}"
        if self._settings_fault:
            line += f" (settings file refused, the old ones are in force: {self._settings_fault})"
        self._notifier.status(line)


async def serve(agent: Agent) -> None:
    """Run the agent under the process's signals: SIGTERM and SIGINT stop it, SIGHUP rereads the settings."""
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop.set)
    loop.add_signal_handler(signal.SIGHUP, agent.reload.set)
    watch_without_threads()
    grpc.aio.init_grpc_aio()
    await agent.run()
