"""Credentials of the wire between machines: of the agents' port, and of the channels that pings use.

Neither is encrypted yet: mutual TLS comes in here, and nothing else has to change. Until then `api/peer.py` judges a
speaker by its address, which is only as good as the network that carries it.
"""

import grpc

# A ping must see the agent as it is now, so it shares no connection (nor its reconnect backoff) with an earlier one,
# and it goes to the instance itself, never through a proxy of the controller's environment.
PING_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 * 1024),
)


def open_agent_channel(target: str) -> grpc.aio.Channel:
    """A channel to the MonitorService of one agent; `target` is host:port."""
    return grpc.aio.insecure_channel(target, options=PING_OPTIONS)


def listen_for_agents(server: grpc.aio.Server, address: str) -> int:
    """Bind the agents' port; returns it, for an address that ends in `:0`. RuntimeError when it is taken."""
    return server.add_insecure_port(address)
