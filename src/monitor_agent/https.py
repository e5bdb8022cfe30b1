"""Whether the agent has Python's ssl: only where a setting needs it, for OpenSSL is 4.4 MiB of the agent's 45.

gRPC brings a TLS of its own, and asyncio works without ssl. This file imports nothing that imports asyncio.
"""

import sys

from monitor_agent.settings import Settings


def needs_https(settings: Settings) -> bool:
    """Whether anything these settings make the agent ask answers over https."""
    asks_ec2 = settings.controller_tag is not None
    at_https = not (settings.ec2_endpoint_url or "https:").startswith("http:")
    return (asks_ec2 and at_https) or (settings.application_openmetrics_url or "").startswith("https:")


def leave_https_out() -> None:
    """Keep asyncio from importing ssl. Too late once asyncio is imported, and harmless then."""
    if "asyncio" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # the import system reads None as "there is none"


def has_https() -> bool:
    """Whether https can be spoken; a reload to settings that need it says to restart otherwise."""
    return "ssl" not in sys.modules or sys.modules["ssl"] is not None
