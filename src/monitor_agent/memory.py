"""What the agent remembers over its own restart but not over the machine's: small files of the state directory."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Memory:
    """One file, which counts until the next boot."""

    path: Callable[[], Path]
    boot_id: str

    def keep(self, values: dict[str, Any]) -> None:
        """In place of what was kept. Raises OSError, and what was kept is kept then."""
        path = self.path()
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"boot_id": self.boot_id, **values}))
        os.replace(fresh, path)

    def read(self) -> dict[str, Any]:
        """What was kept since the machine's start; empty when nothing was. Raises OSError or ValueError."""
        try:
            kept = json.loads(self.path().read_text())
        except FileNotFoundError:
            return {}
        if not isinstance(kept, dict):
            raise ValueError("not a JSON object")
        return kept if kept.get("boot_id") == self.boot_id else {}
