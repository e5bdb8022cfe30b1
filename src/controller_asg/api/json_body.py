"""The JSON of a request's body over HTTP."""

import json
from typing import Any

from controller_asg.model.errors import Fault, SpecError


def read_json(body: bytes, mend: str) -> Any:
    """Raises SpecError: no JSON, or half of a surrogate pair, which could be stored and then answered to nobody."""
    try:
        found = json.loads(body)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        what = f"holds half of a character, U+{ord(error.object[error.start]):04X}"
        raise SpecError((Fault("body", what, "send whole characters"),)) from error
    except (ValueError, RecursionError) as error:
        raise SpecError((Fault("body", "is not JSON", mend),)) from error
    return found
