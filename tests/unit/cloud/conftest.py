"""Scripted EC2 endpoints, stopped after each test."""

import secrets
from collections.abc import Callable, Iterator

import pytest
from scripted_ec2 import Form, Reply, Server


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Form], Reply]], Server]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", secrets.token_hex(10))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets.token_hex(20))
    servers: list[Server] = []

    def start(reply: Callable[[Form], Reply]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
