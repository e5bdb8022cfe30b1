"""The file of prices that an operator keeps: region, then type, then USD an hour. YAML; JSON is YAML too."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from controller_asg.config import Settings
from controller_asg.model.errors import Fault, SpecError
from controller_asg.model.faults import faults_of
from controller_asg.model.offering import Market, Prices
from controller_asg.model.scaling_policy import STRICT

Usd = Annotated[float, Field(gt=0, le=10_000)]


@dataclass(frozen=True, slots=True, config=STRICT)
class Price:
    """Of one type."""

    on_demand: Usd
    # None: as on demand, which is the most that EC2 charges.
    spot: Usd | None = None


_FILE: TypeAdapter[Mapping[str, Mapping[str, Price]]] = TypeAdapter(Mapping[str, Mapping[str, Price]])


def load_prices(settings: Settings) -> Prices:
    """Those of the controller's region; none without a file. Raises SpecError with everything that is wrong with it."""
    region = settings.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    if not settings.prices_file:
        return Prices(region=region)
    path = settings.prices_file
    try:
        document = yaml.safe_load(Path(path).read_bytes()) or {}
        # As JSON: pydantic's strict mode takes no dict of Python for a dataclass.
        regions = _FILE.validate_json(json.dumps(document, default=str))
    except OSError as error:
        what, mend = f"{path} can't be read: {error.strerror}", "let the role controller write it"
        raise SpecError((Fault("prices_file", what, mend),)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = f"{path} is not YAML: {' '.join(str(error).split())}"
        raise SpecError((Fault("prices_file", what, "mend that line"),)) from error
    except ValidationError as error:
        raise SpecError(tuple(faults_of(error, f"prices_file {path}", Price))) from error
    by_type = {
        name: {
            Market.ON_DEMAND: price.on_demand,
            Market.SPOT: price.on_demand if price.spot is None else price.spot,
        }
        for name, price in regions.get(region, {}).items()
    }
    return Prices(by_type, region, path)
