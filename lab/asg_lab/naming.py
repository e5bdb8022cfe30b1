"""The option that says which lab a command means."""

from typing import Annotated

import typer

NameOption = Annotated[str, typer.Option("--name", envvar="LAB_NAME", help="The lab's name.")]
