"""Reading traces, and the demand they make."""

import gzip
from pathlib import Path

import pytest

from controller_asg.model.errors import SpecError
from controller_asg.rehearse.generate import SHAPES, generate, write_trace
from controller_asg.rehearse.load import Trace, demand, read_trace, read_traces


def test_a_coarse_trace_is_joined_by_straight_lines_and_has_ten_instances_on_average() -> None:
    assert demand(Trace("coarse", (0.0, 20.0, 40.0), (1.0, 3.0, 2.0))) == [5, 10, 15, 12.5, 10]


def test_a_fine_trace_is_averaged_over_each_tick() -> None:
    assert demand(Trace("fine", (0.0, 5.0, 10.0, 15.0), (1.0, 3.0, 2.0, 2.0))) == [10, 10]


def test_a_trace_need_not_begin_at_zero() -> None:
    assert demand(Trace("late", (1000.0, 1010.0), (1.0, 3.0))) == [5, 15]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0,1\n", "t.csv:1: is no header; begin the file with seconds,load"),
        ("seconds,load\n0,1\n10;2\n", "t.csv:3: '10;2' is not two numbers; write seconds,load"),
        (
            "seconds,load\n0,nan\n",
            "t.csv:2: '0,nan' is no load; write finite seconds, and a load of 0 to 1e+15",
        ),
        (
            "seconds,load\n0,-1\n",
            "t.csv:2: '0,-1' is no load; write finite seconds, and a load of 0 to 1e+15",
        ),
        ("seconds,load\n10,1\n10,1\n", "t.csv:3: 10 s is not after 10 s; sort the rows"),
        ("seconds,load\n0,0\n", "t.csv:2: there was no load at all; give a trace with some"),
    ],
)
def test_bad_input_is_one_error_that_names_file_and_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(SpecError) as raised:
        read_trace(path)
    assert str(raised.value) == f"{tmp_path}/{told}"


def test_a_broken_archive_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(SpecError, match=r"t\.csv\.gz: can't be read"):
        read_trace(path)


def test_a_folder_gives_its_traces_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("seconds,load\n0,1\n")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"seconds,load\n0,1\n"))
    (tmp_path / "README.md").write_text("not a trace")
    assert [trace.name for trace in read_traces(tmp_path)] == ["a", "b"]


def test_a_folder_without_a_trace_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no trace"):
        read_traces(tmp_path)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_made_up_trace_depends_on_its_seed_alone_and_can_be_written(tmp_path: Path, shape: str) -> None:
    made = generate(shape, 3)
    assert made == generate(shape, 3)
    path = tmp_path / f"{made.name}.csv"
    write_trace(made, path)
    read = read_trace(path)
    assert (read.name, read.seconds) == (made.name, made.seconds)
    assert read.loads == pytest.approx(made.loads, abs=0.006)
