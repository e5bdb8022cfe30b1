"""URLs of stores: which are taken, and what an error shows of them."""

import pytest

from controller_asg.model.errors import StoreError
from controller_asg.store.connect import display, parse_url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:////var/lib/controller-asg/store.db", "store sqlite:////var/lib/controller-asg/store.db"),
        ("postgresql://asg:hunter2@db.internal:5432/asg?password=x", "store postgresql://db.internal/asg"),
        ("postgresql+psycopg://asg@/asg?host=/run/postgresql", "store postgresql:///run/postgresql/asg"),
    ],
)
def test_a_store_is_shown_without_user_and_password(text: str, shown: str) -> None:
    assert display(parse_url(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", "hunter2", "mysql://root:hunter2@db/asg", "sqlite://", "sqlite:///:memory:", "sqlite:///a?b=c"],
)
def test_what_is_no_store_of_ours_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(StoreError, match=r"store_url: .*name sqlite:////") as caught:
        parse_url(text)
    assert "hunter2" not in str(caught.value)
