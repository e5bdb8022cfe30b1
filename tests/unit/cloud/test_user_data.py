"""User data parses back to its parts, is the same bytes each time, and is never larger than EC2 takes."""

from email.message import Message
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller_asg.cloud.user_data import LIMIT_BYTES, TEMPLATE_SETTING, render_user_data
from controller_asg.model.errors import SpecError

TEMPLATE = '{# ours #}\n#cloud-config\nwrite_files:\n  - content: {{ address }} & "quoted" <kept>\n'
CONTEXT = {"address": "10.0.0.1:7402"}
OURS = '#cloud-config\nwrite_files:\n  - content: 10.0.0.1:7402 & "quoted" <kept>\n'


def parts_of(document: str) -> list[Message]:
    message = BytesParser().parsebytes(document.encode())
    assert message.is_multipart()
    assert not message.defects
    return list(message.get_payload())


def text_of(part: Message) -> str:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


def test_without_an_operators_part_it_is_ours_alone_and_nothing_is_escaped() -> None:
    assert render_user_data(TEMPLATE, CONTEXT, "") == OURS
    assert render_user_data(TEMPLATE, CONTEXT, " \n") == OURS


def test_a_script_of_the_operators_comes_after_ours() -> None:
    ours, theirs = parts_of(render_user_data(TEMPLATE, CONTEXT, "#!/bin/sh\necho hello\n"))
    assert (ours.get_content_type(), text_of(ours)) == ("text/cloud-config", OURS)
    assert (theirs.get_content_type(), text_of(theirs)) == ("text/x-shellscript", "#!/bin/sh\necho hello\n")
    assert str(ours.get_filename()) < str(theirs.get_filename())


def test_two_cloud_configs_are_merged_and_not_replaced() -> None:
    for part in parts_of(render_user_data(TEMPLATE, CONTEXT, "#cloud-config\npackages: [jq]\n")):
        assert "list(append)" in part["Merge-Type"]
        assert "no_replace" in part["Merge-Type"]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")))
def test_any_script_comes_back_as_it_was_written(body: str) -> None:
    script = f"#!/bin/sh\n{body}"
    document = render_user_data(TEMPLATE, CONTEXT, script)
    assert text_of(parts_of(document)[1]) == script
    assert document == render_user_data(TEMPLATE, CONTEXT, script)


def test_a_script_that_holds_our_boundary_does_not_end_the_document() -> None:
    script = render_user_data(TEMPLATE, CONTEXT, "#!/bin/sh\n").replace("Content-Type", "#!/bin/sh\n", 1)
    assert text_of(parts_of(render_user_data(TEMPLATE, CONTEXT, script))[1]) == script


def test_the_operators_own_mime_document_becomes_parts_of_ours() -> None:
    theirs = render_user_data("#!/bin/sh\necho one\n", {}, "#cloud-config\npackages: [jq]\n")
    found = [part.get_content_type() for part in parts_of(render_user_data(TEMPLATE, CONTEXT, theirs))]
    assert found == ["text/cloud-config", "text/x-shellscript", "text/cloud-config"]


@pytest.mark.parametrize("text", ["echo hello\n", "Content-Type: text/plain\n\nhello", "{}"])
def test_a_part_that_cloud_init_would_not_run_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        render_user_data(TEMPLATE, CONTEXT, text, "asg_groups.web.launch.user_data")
    assert caught.value.where == "asg_groups.web.launch.user_data"
    assert "hello" not in str(caught.value)


def test_what_is_over_16_kib_is_refused_and_what_is_at_it_is_not() -> None:
    room = LIMIT_BYTES - len(render_user_data(TEMPLATE, CONTEXT, "#!/bin/sh\n"))
    assert len(render_user_data(TEMPLATE, CONTEXT, "#!/bin/sh\n" + "x" * room)) == LIMIT_BYTES
    with pytest.raises(SpecError, match=rf"{LIMIT_BYTES + 1} bytes"):
        render_user_data(TEMPLATE, CONTEXT, "#!/bin/sh\n" + "x" * (room + 1))


@pytest.mark.parametrize("template", ["#!/bin/sh\n{{ nobody }}", "#!/bin/sh\n{% if %}", "no first line"])
def test_a_template_that_does_not_render_names_the_setting(template: str) -> None:
    with pytest.raises(SpecError) as caught:
        render_user_data(template, CONTEXT, "")
    assert caught.value.where == TEMPLATE_SETTING
