"""Who this instance is: its id from instance metadata (IMDSv2), and the kernel's boot id."""

import re
from pathlib import Path

from monitor_agent.http_client import HttpError, Response, fetch

TOKEN_SECONDS = 300  # of validity; a token is asked for each question, for questions are rare
TIMEOUT_SECONDS = 2.0  # IMDS is on the machine's own host


class ImdsError(Exception):
    """Instance metadata did not answer, or not with what was asked for."""


class Imds:
    """Instance metadata below a URL."""

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._url, self._timeout_seconds = url.rstrip("/"), timeout_seconds

    async def get(self, path: str) -> str:
        """The text at a path such as "meta-data/instance-id". Raises ImdsError."""
        token = await self._ask(
            "PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        )
        return await self._ask("GET", path, {"X-aws-ec2-metadata-token": token})

    async def instance_id(self) -> str:
        """The instance's id. Raises ImdsError."""
        text = await self.get("meta-data/instance-id")
        if not re.fullmatch(r"i-[0-9a-f]{8,17}", text):
            raise ImdsError(f"{self._url} gave {text[:40]!r} as instance id")
        return text

    async def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        url = f"{self._url}/latest/{path}"
        try:
            response: Response = await fetch(
                url, method=method, headers=headers, timeout_seconds=self._timeout_seconds, limit_bytes=65536
            )
        except HttpError as error:
            raise ImdsError(str(error)) from error
        if response.status != 200:
            raise ImdsError(f"{method} {url}: HTTP {response.status}")
        text = response.body.decode("utf-8", "replace").strip()
        if not text or (method == "PUT" and not text.isprintable()):
            raise ImdsError(f"{method} {url}: an empty or broken answer")
        return text


def read_boot_id(proc: Path = Path("/proc")) -> str:
    """The kernel's id of this boot, or an empty text where it can't be read."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
