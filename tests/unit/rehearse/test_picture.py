"""Pictures: what they show, and that a page needs nothing but itself."""

import re
from pathlib import Path

import pytest

from controller_asg.rehearse.figures import figures
from controller_asg.rehearse.picture import Mark, Replay, terminal, write_html, write_png
from controller_asg.rehearse.world import Schedule

# Needs a third instance from tick 4, and gets it at tick 6.
DEMAND = [1.5] * 4 + [2.5] * 8
SCHEDULE = Schedule([2] * 4 + [3] * 8, [2] * 6 + [3] * 6)
REASON = "demand 2.0 of 2 </script><b>in service"


@pytest.fixture
def replay() -> Replay:
    need = [2] * 4 + [3] * 8
    return Replay(
        "a<b", DEMAND, {"ours": SCHEDULE}, {"ours": figures(need, SCHEDULE, 20)}, [Mark(4, 3, REASON)]
    )


def test_a_page_holds_all_it_needs_and_escapes_what_it_shows(replay: Replay, tmp_path: Path) -> None:
    write_html([replay], 20, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert "<h2>a&lt;b</h2>" in page
    assert REASON not in page
    assert "demand 2.0 of 2 \\u003c" in page
    assert "<td>16.667</td>" in page  # two of twelve ticks were short


def test_the_terminal_shows_the_shortage_though_a_column_stands_for_many_ticks(tmp_path: Path) -> None:
    calm, short = [1.0] * 40_000, [1.0] * 40_000
    short[20_000] = 4.0
    served = Schedule([2] * 40_000, [2] * 40_000)
    drawn = [
        terminal(Replay("t", demand, {"ours": served}, {}, []), colour=False) for demand in (calm, short)
    ]
    heights = [max(float(n) for n in re.findall(r"│ (\d+(?:\.\d+)?)", each)) for each in drawn]
    assert heights[0] < 2.5 < heights[1]


def test_a_png_is_one(replay: Replay, tmp_path: Path) -> None:
    write_png([replay, replay], tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
