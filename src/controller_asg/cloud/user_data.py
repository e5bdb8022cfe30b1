"""The user data of a new instance: the controller's own part and the operator's, as one cloud-init document.

The same input gives the same bytes. It must: user data is part of the launch that is replayed with its client token,
and EC2 refuses a replay that differs.
"""

import base64
from collections.abc import Mapping
from email.parser import Parser

import jinja2

from controller_asg.model.errors import Fault, SpecError

LIMIT_BYTES = 16_384  # before base64 (EC2 User Guide, "Run commands on your Linux instance at launch")
TEMPLATE_SETTING = "user_data_template"

_BOUNDARY = "=====controller-asg====="
# By first line; longer beginnings first (cloud-init reference, "User data formats").
_PART_TYPES = (
    ("#cloud-config-archive", "text/cloud-config-archive"),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
    ("#cloud-config", "text/cloud-config"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#include-once", "text/x-include-once-url"),
    ("#include", "text/x-include-url"),
    ("#part-handler", "text/part-handler"),
    ("## template: jinja", "text/jinja2"),
    ("#!", "text/x-shellscript"),
)
# Without it two cloud-configs with one key in common (say write_files) keep only one of them. What stands in an earlier
# part stays, lists grow (cloud-init explanation, "Merging user data sections").
_MERGE_TYPE = "list(append)+dict(no_replace,recurse_list)+str()"


def render_user_data(
    template: str, context: Mapping[str, str], operators: str, where: str = "launch.user_data"
) -> str:
    """Our part, rendered from the role's `template`, followed by the operator's own (empty: none).

    `where` names the operator's key in errors. Raises SpecError: a template that does not render, a part that
    cloud-init would not know, or more than EC2's 16 KiB.
    """
    ours = _render(template, context).lstrip("\n")  # a template may open with a comment of Jinja's
    parts = [_part(ours, "10-controller-asg", TEMPLATE_SETTING)]
    if operators.strip():
        parts += _operators_parts(operators, where)
        document = _multipart(parts)
    else:
        document = ours
    size = len(document.encode())
    if size > LIMIT_BYTES:
        own = len(ours.encode())
        what = f"{size} bytes, of which {own} are the controller's own part, are over EC2's {LIMIT_BYTES}"
        raise SpecError((Fault(where, what, "shorten it, or let it fetch the rest from a place of yours"),))
    return document


def _render(template: str, context: Mapping[str, str]) -> str:
    # No autoescape: the text becomes shell and YAML, where HTML's entities would be literal and wrong. What is
    # filled in is the controller's own (addresses, a group's checked name), never an agent's text.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
        keep_trailing_newline=True,
    )
    try:
        return environment.from_string(template).render(context)
    except jinja2.TemplateError as error:
        line = f" in line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        what = f"does not render{line}: {error.message}"
        mend = f"use only {', '.join(sorted(context)) or 'no variable'}"
        raise SpecError((Fault(TEMPLATE_SETTING, what, mend),)) from error


def _operators_parts(text: str, where: str) -> list[str]:
    """The operator's part; or each of them, where the text is MIME already."""
    text = text.lstrip("\ufeff\r\n")
    if not text.lower().startswith(("content-type:", "mime-version:")):
        return [_part(text, "20-operator", where)]
    message = Parser().parsestr(text)
    if not message.is_multipart() or message.defects:
        raise SpecError((Fault(where, "is MIME, but not a whole multipart document", "close its boundary"),))
    return [part.as_string() for part in message.get_payload() if not isinstance(part, str)]


def _part(text: str, filename: str, where: str) -> str:
    first_line = text.partition("\n")[0].rstrip()
    kind = next((kind for start, kind in _PART_TYPES if first_line.startswith(start)), None)
    if kind is None:
        # The line itself is not shown: user data may hold secrets.
        what = "its first line is none that cloud-init knows"
        raise SpecError((Fault(where, what, "begin a script with #! and a cloud-config with #cloud-config"),))
    headers = [f'Content-Type: {kind}; charset="utf-8"', "MIME-Version: 1.0"]
    if kind == "text/cloud-config":
        headers.append(f"Merge-Type: {_MERGE_TYPE}")
    # cloud-init runs scripts in the order of their file names.
    headers.append(f'Content-Disposition: attachment; filename="{filename}"')
    if text.isascii():
        headers.append("Content-Transfer-Encoding: 7bit")
        return "\n".join([*headers, "", text])
    headers.append("Content-Transfer-Encoding: base64")  # cloud-init's parser garbles 8-bit text
    return "\n".join([*headers, "", base64.encodebytes(text.encode()).decode("ascii")])


def _multipart(parts: list[str]) -> str:
    boundary = _BOUNDARY
    while any(boundary in part for part in parts):
        boundary += "="
    lines = [f'Content-Type: multipart/mixed; boundary="{boundary}"', "MIME-Version: 1.0", ""]
    for part in parts:
        lines += [f"--{boundary}", part]
    return "\n".join([*lines, f"--{boundary}--", ""])
