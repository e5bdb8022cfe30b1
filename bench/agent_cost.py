"""What the agent costs its instance: memory and CPU at one sample a second, in session with a small controller.

    python bench/agent_cost.py [--seconds 60]

One JSON line a figure. The baseline of the memory is a process of the same environment that has imported grpc.aio and
nothing else. Both processes hide the package grpc_tools, which grpc imports when it finds it (6 MiB): it is a
development tool, and no instance has it. `--as-installed` leaves it in.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RSS_GOAL_MIB, CPU_GOAL_PERCENT = 45.0, 0.5
SETTLE_SECONDS = 3.0  # the start's own work is not the cost of running
HIDE = "import sys; sys.modules['grpc_tools'] = None; "
BASELINE = "import grpc.aio; print('up', flush=True); sys.stdin.read()"
AGENT = "from monitor_agent.__main__ import main; sys.exit(main(['serve', '--config', sys.argv[1]]))"
CPU_TICKS = os.sysconf("SC_CLK_TCK")


async def fake_controller() -> None:
    """A RegisterService that takes every agent; prints its port, then the number of messages when its input ends."""
    import grpc.aio

    from asg.register.v1 import register_pb2, register_pb2_grpc

    messages = 0

    class Register(register_pb2_grpc.RegisterServiceServicer):
        async def Register(self, request, context):
            settings = register_pb2.AgentSettings(sample_interval_seconds=1.0)
            return register_pb2.RegisterResponse(settings=settings, group="bench")

        async def Unregister(self, request, context):
            return register_pb2.UnregisterResponse()

        async def Session(self, request_iterator, context):
            nonlocal messages
            settings = register_pb2.AgentSettings(sample_interval_seconds=1.0)
            await context.write(register_pb2.SessionResponse(settings=settings))
            async for _ in request_iterator:
                messages += 1

    server = grpc.aio.server(options=[("grpc.http2.min_ping_interval_without_data_ms", 5000)])
    register_pb2_grpc.add_RegisterServiceServicer_to_server(Register(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(messages, flush=True)
    await server.stop(0)


def measure(seconds: float, *, hide: str) -> list[dict[str, object]]:
    """The figures, from an agent that runs for `seconds` after it has settled."""
    baseline = _start("import sys; " + hide + BASELINE)
    assert baseline.stdout is not None
    baseline.stdout.readline()
    baseline_mib = rss_mib(baseline.pid)
    baseline.terminate()
    controller = subprocess.Popen(
        [sys.executable, __file__, "--fake-controller"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert controller.stdout is not None
    assert controller.stdin is not None
    port = int(controller.stdout.readline())
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "agent.toml")
        config.write_text(
            f'controller_address = "127.0.0.1:{port}"\ninstance_id = "i-0123456789abcdef0"\n'
            'monitor_listen = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\n'
        )
        agent = _start("import sys; " + hide + AGENT, str(config))
        try:
            time.sleep(SETTLE_SECONDS)
            if agent.poll() is not None:
                raise SystemExit(f"the agent ended with exit code {agent.returncode}")
            began, cpu_before = time.monotonic(), cpu_seconds(agent.pid)
            time.sleep(seconds)
            cpu_percent = 100 * (cpu_seconds(agent.pid) - cpu_before) / (time.monotonic() - began)
            agent_mib = rss_mib(agent.pid)
            agent.terminate()
            agent.wait(10)
            controller.stdin.write("\n")
            controller.stdin.flush()
            messages = int(controller.stdout.readline())
        finally:
            agent.kill()
            controller.kill()
    if messages < seconds * 0.9:
        raise SystemExit(f"the agent was not in session: {messages} messages in {seconds:g} s")
    return [
        {
            "figure": "agent_rss_mib",
            "value": round(agent_mib, 1),
            "unit": "MiB",
            "goal": RSS_GOAL_MIB,
            "baseline": round(baseline_mib, 1),
            "met": agent_mib <= RSS_GOAL_MIB,
        },
        {
            "figure": "agent_cpu_percent",
            "value": round(cpu_percent, 3),
            "unit": "% of one CPU",
            "goal": CPU_GOAL_PERCENT,
            "seconds": seconds,
            "messages": messages,
            "met": cpu_percent <= CPU_GOAL_PERCENT,
        },
    ]


def rss_mib(pid: int) -> float:
    """Resident memory of a process, files included, as systemd and ps count it."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process: the scheduler's nanoseconds, or clock ticks where it keeps none."""
    tasks = [Path(f"/proc/{pid}/task", task, "schedstat") for task in os.listdir(f"/proc/{pid}/task")]
    if all(task.exists() for task in tasks):
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CPU_TICKS


def _start(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--as-installed", action="store_true", help="let grpc import grpc_tools where it is installed"
    )
    parser.add_argument("--fake-controller", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fake_controller:
        asyncio.run(fake_controller())
        return
    for figure in measure(options.seconds, hide="" if options.as_installed else HIDE):
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
