"""The process: settings, store, EC2, agents, engine and doors wired together, and systemd told how it goes.

The only place that knows every part. READY is told once the store is open and EC2 has been observed; the watchdog lives
on the reconcilers' passes, so a loop that is stuck is restarted. It stops in the order in which work could be lost:
first the doors, then what decides, then the store.
"""

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc
import structlog

from controller_asg import __version__
from controller_asg.api.admin_service import AdminServer, build_admin_server
from controller_asg.api.channel import listen_for_agents, open_agent_channel
from controller_asg.api.http import HttpServer, bind_http, build_http_app, http_server, read_token
from controller_asg.api.register_service import build_agents_server
from controller_asg.api.webhooks import read_secrets
from controller_asg.cloud.ec2 import Ec2Cloud
from controller_asg.cloud.user_data import render_user_data
from controller_asg.config import Settings, changed, load_settings, public, reloaded
from controller_asg.engine.bootstrap import RoleBootstrap
from controller_asg.engine.engine import Engine
from controller_asg.logs import set_level, start_logging
from controller_asg.model.clock import SystemClock
from controller_asg.model.document import place
from controller_asg.model.errors import AsgError, Fault, SpecError
from controller_asg.model.group import Group
from controller_asg.model.offering import Prices
from controller_asg.monitor.fleet import Fleet, WatchSettings
from controller_asg.monitor.ping import GrpcPinger
from controller_asg.notify import Notifier
from controller_asg.prices import load_prices
from controller_asg.store.sql import SqlStore

log = structlog.get_logger()

TELL_EVERY_SECONDS = 1.0  # how late STATUS= may be, and the least time between two feeds of the watchdog
LOOK_FOR_READY_SECONDS = 0.1
HEALTHY_SECONDS = 15.0  # without a pass for longer, /healthz answers 503; half of the unit's WatchdogSec
STOP_GRACE_SECONDS = 2.0  # for calls under way; agents and clients come again


def run(path: Path, settings: Settings) -> None:
    """Serve until SIGTERM. Raises SpecError for settings that can't be acted on, StoreError, FencedError."""
    start_logging(settings.log_level)
    try:
        asyncio.run(Daemon(path, settings).serve())
    except BaseExceptionGroup as failures:
        expected, _ = failures.split(AsgError)
        if expected is None:
            raise
        raise _first(expected) from failures


class Files(NamedTuple):
    """What the files that settings name hold."""

    http_token: bytes
    template: str
    prices: Prices
    webhook_secrets: tuple[bytes, ...]


# By setting.
FILES = {
    "http_token_file": "http_token",
    "user_data_template": "template",
    "prices_file": "prices",
    "webhook_secret_file": "webhook_secrets",
}


class Daemon:
    """One life of the process. Make it anew for each."""

    version = __version__

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._files = _read_files(settings)
        self.settings_fault = ""
        self._clock = SystemClock()
        self._notifier = Notifier()
        self._stop = asyncio.Event()
        self._ready = False
        self._fed_at = self._passed_at = self._clock.monotonic()
        self._store = SqlStore(settings.store_url)
        self._cloud = Ec2Cloud(
            settings.controller_name, settings.region, settings.ec2_endpoint_url, self._clock
        )
        self._fleet = Fleet(
            self._clock,
            GrpcPinger(open_agent_channel),
            _watch_settings(settings),
            # The engine is made below: it asks the fleet, and the fleet wakes it.
            lambda group, reason: self._engine.wake(group, reason),
        )
        self._engine = Engine(
            self._store,
            self._cloud,
            self._fleet,
            self._clock,
            settings,
            self._user_data,
            _bootstrap(settings),
            self._progressed,
            prices=self._files.prices,
        )
        self._admin: AdminServer | None = None
        self._agents: grpc.aio.Server | None = None
        self._http: HttpServer | None = None

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self._engine.start()
            await self._run()
        finally:
            self._notifier.stopping()
            await self._close_doors()
            await self._store.close()
            self._cloud.close()
            self._notifier.close()
        log.info("stopped")

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            hang_up = partial(self._reload_on_signal, tasks)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
            work = [
                tasks.create_task(self._engine.run(), name="engine"),
                tasks.create_task(self._fleet.run(), name="fleet"),
                tasks.create_task(self._tell(), name="tell"),
            ]
            await self._open_doors(tasks)
            log.info("started", version=__version__, settings=public(self._settings))
            await self._stop.wait()
            log.info("stopping")
            self._notifier.stopping()
            await self._close_doors()
            for task in work:
                task.cancel()

    # Doors

    async def _open_doors(self, tasks: asyncio.TaskGroup) -> None:
        settings = self._settings
        self._admin = build_admin_server(self._engine, self)
        self._admin.listen(Path(settings.admin_socket), settings.admin_listen)
        self._agents = await build_agents_server(self._fleet, self._engine.agent_unknown)
        try:
            listen_for_agents(self._agents, settings.agents_listen)
        except RuntimeError as error:
            what = f"{settings.agents_listen} can't be listened at"
            raise SpecError((Fault("agents_listen", what, "see what holds it"),)) from error
        if settings.http_token_file:
            app = build_http_app(
                self._engine,
                lambda: self._files.http_token,
                self._healthy,
                __version__,
                lambda: self._files.webhook_secrets,
            )
            self._http = http_server(app)
            tasks.create_task(self._http.serve(sockets=[bind_http(settings.http_listen)]), name="http")
        await self._admin.server.start()
        await self._agents.start()

    async def _close_doors(self) -> None:
        """Harmless when repeated."""
        admin, agents, http = self._admin, self._agents, self._http
        self._admin = self._agents = self._http = None
        if http is not None:
            http.should_exit = True
        if admin is not None:
            await admin.set_serving(False)
            await admin.stop(STOP_GRACE_SECONDS)
        if agents is not None:
            await agents.stop(0)  # sessions never end by themselves; agents look for us again

    # What systemd and monitoring hear

    async def _tell(self) -> None:
        while True:
            if not self._ready and self._engine.observed and self._admin is not None:
                self._ready = True
                await self._admin.set_serving(True)
                self._notifier.ready()
                log.info("ready", summary=self._engine.status().summary)
            self._notifier.status(self._status_line())
            if self._ready and not self._engine.groups():
                self._progressed()  # no group, no passes
            await self._clock.sleep(TELL_EVERY_SECONDS if self._ready else LOOK_FOR_READY_SECONDS)

    def _status_line(self) -> str:
        status = self._engine.status()
        parts = [status.summary]
        if not self._ready:
            parts.append("EC2 has not answered yet")
        for name, fault in (
            ("the last reload was refused", self.settings_fault),
            ("EC2", status.cloud_fault),
            ("store", status.store_fault),
        ):
            if fault:
                parts.append(f"{name}: {fault}")
        return "; ".join(parts)

    def _progressed(self) -> None:
        """A pass ended. Called often; the watchdog is fed once a second."""
        now = self._passed_at = self._clock.monotonic()
        if now - self._fed_at >= TELL_EVERY_SECONDS:
            self._fed_at = now
            self._notifier.watchdog()

    def _healthy(self) -> bool:
        recently = self._clock.monotonic() - self._passed_at < HEALTHY_SECONDS
        return self._ready and recently and not self._engine.status().store_fault

    # Settings

    def public_settings(self) -> Mapping[str, str]:
        return public(self._settings)

    async def reload(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Reread the file. Raises SpecError, and then the old settings stay in force and status says why."""
        try:
            wanted = load_settings(self._path)
            in_force = reloaded(self._settings, wanted)
            files = _read_files(in_force)
        except SpecError as error:
            self.settings_fault = "; ".join(map(str, error.faults))
            log.error("reload_refused", fault=self.settings_fault, mend="mend the file, then reload again")
            self._notifier.status(self._status_line())
            raise
        self.settings_fault = ""
        names, needs_restart = changed(self._settings, wanted)
        # Files that a setting names are reread too.
        names += tuple(
            setting for setting, name in FILES.items() if getattr(files, name) != getattr(self._files, name)
        )
        self._settings, self._files = in_force, files
        set_level(in_force.log_level)
        self._fleet.settings = _watch_settings(in_force)
        self._engine.settings_changed(in_force, files.prices)
        log.info("reloaded", changed=names, needs_restart=needs_restart)
        return names, needs_restart

    def _reload_on_signal(self, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self._reload_quietly(), name="reload")

    async def _reload_quietly(self) -> None:
        with contextlib.suppress(SpecError):  # it is logged and in the status; nobody waits for an answer
            await self.reload()

    def _user_data(self, group: Group) -> str:
        context = {
            "controller_address": self._settings.advertised_address,
            "ec2_endpoint_url": self._settings.ec2_endpoint_url,
            "region": self._settings.region,
            "group": group.name,
        }
        return render_user_data(
            self._files.template, context, group.launch.user_data, place(group.name, "launch.user_data")
        )


def _read_files(settings: Settings) -> Files:
    """Raises SpecError with the faults of all files that settings name."""
    faults: list[Fault] = []
    token, template, prices, secrets = b"", "", Prices(), tuple[bytes, ...]()
    if settings.http_token_file:
        try:
            token = read_token(Path(settings.http_token_file))
        except SpecError as error:
            faults.extend(error.faults)
    try:
        template = Path(settings.user_data_template).read_text()
    except (OSError, UnicodeDecodeError) as error:
        what = f"{settings.user_data_template} can't be read: {error}"
        faults.append(Fault("user_data_template", what, "let the role controller write it"))
    try:
        prices = load_prices(settings)
    except SpecError as error:
        faults.extend(error.faults)
    if settings.webhook_secret_file:
        try:
            secrets = read_secrets(Path(settings.webhook_secret_file))
        except SpecError as error:
            faults.extend(error.faults)
    if faults:
        raise SpecError(tuple(faults))
    return Files(token, template, prices, secrets)


def _watch_settings(settings: Settings) -> WatchSettings:
    return WatchSettings(
        silence_seconds=settings.silence_seconds,
        ping_timeout_seconds=settings.ping_timeout_seconds,
        sample_interval_seconds=settings.sample_interval_seconds,
        window_seconds=1.0,  # the engine widens it to the policies' longest
    )


def _bootstrap(settings: Settings) -> RoleBootstrap:
    return RoleBootstrap(
        project=Path(settings.bootstrap_project),
        ssh_user=settings.bootstrap_ssh_user,
        ssh_key_file=settings.bootstrap_ssh_key_file,
        timeout_seconds=settings.bootstrap_timeout_seconds,
        variables={
            "monitor_agent_controller_address": settings.advertised_address,
            "monitor_agent_ec2_endpoint_url": settings.ec2_endpoint_url,
            "monitor_agent_region": settings.region,
        },
    )


def _first(failures: BaseExceptionGroup[AsgError]) -> AsgError:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, AsgError)
    return error
