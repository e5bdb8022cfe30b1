"""The language of expressions: what it says, and that no text gets beyond its fault."""

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError
from controller_asg.model.expression import MAX_CHARACTERS, ExpressionError, Term, parse

NAMES = {
    "in_service": 4.0,
    "desired": 6.0,
    "average(cpu_percent)": 50.0,
    "sum(app.backlog)": 120.0,
    'p95(app.jobs{queue="a}b",to="c"})': 7.0,
    "sum(app.zero)": 0.0,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sum(app.backlog) / in_service", 30),
        ("1 + 2 * average(cpu_percent) - 3 - 4", 94),
        ("average(cpu_percent) / 5 / (2 + 3) * .5e1", 10),
        ("max(1, min(average(cpu_percent), 40), desired)", 40),
        (' p95 ( app.jobs{queue="a}b",to="c"} )\n* 2 ', 14),
        ("desired / sum(app.zero)", None),
        ("min(1, 1e308 * average(cpu_percent))", None),
    ],
)
def test_an_expression_has_the_value_of_its_arithmetic(text: str, value: float | None) -> None:
    assert parse(text).value(NAMES) == value


def test_a_term_that_lowers_the_value_anywhere_is_known() -> None:
    terms = parse("sum(app.a) - (sum(app.b) - sum(app.c)) + 1 / (2 + sum(app.a)) - max(1, sum(app.d))").terms
    assert terms == (
        Term("sum", "app.a", True),
        Term("sum", "app.b", True),
        Term("sum", "app.c", False),
        Term("sum", "app.d", True),
    )


def told(**policy: Any) -> list[str]:
    document = {
        "launch": {"image": {"id": "ami-0123456789abcdef0"}},
        "policies": [{"type": "target_tracking", "target": 30, **policy}],
    }
    with pytest.raises(SpecError) as caught:
        parse_groups({"web": document})
    return [str(fault).removeprefix("asg_groups.web.policies[0]") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "ends too early; write a number, a statistic of a metric, in_service, desired or ( there"),
        ("average(cpu_percent", "ends too early; write ) there"),
        (
            "average(cpu_percent) 5",
            "'5' at character 22 is out of place; write an operator, or the end there",
        ),
        (
            "average(cpu_precent)",
            "'cpu_precent' is no metric (character 9);"
            " write cpu_percent, or app.<name> for one of the application's own",
        ),
        ("avg(cpu_percent)", "'avg' at character 1 is no known function; write average"),
        (
            "__import__('os')",
            '"\'" at character 12 means nothing here; write numbers, + - * /, parentheses, ',
        ),
        (
            "eval(app.x)",
            "'eval' at character 1 is no known function; write one of average, maximum, minimum,",
        ),
        ("sum(app.x) / in_servce", "'in_servce' at character 14 is no known name; write in_service"),
        (
            "app.backlog / in_service",
            "app.backlog at character 1 is many values, one of each instance;"
            " write a statistic of it, as in average(app.backlog)",
        ),
        ("sum(app.x) ** 9", "'*' at character 13 is out of place; write a number, a statistic of"),
        ("sum(app.x).real", "'.' at character 11 means nothing here; "),
        ("sum(app.x for x in y)", "'for' at character 11 is out of place; write ) there"),
        ("sum(sum(app.x))", "'sum' is no metric (character 5); write one of cpu_percent, "),
        ("sum(app.x) + 1e999", "'1e999' at character 14 is too large; write less"),
        ("desired / in_service", "names no metric; write a statistic of one, as in average(cpu_percent)"),
        ("(" * 500 + "1", "nests deeper than 20 parentheses; write it flatter"),
        ("9" * (MAX_CHARACTERS + 1), "has 1001 characters; write 1000 at the most"),
    ],
)
def test_what_is_no_expression_is_told_in_one_fault_with_its_place_and_mend(text: str, line: str) -> None:
    (fault,) = told(expression=text)
    assert fault.startswith(f".expression: {line}")


def test_either_a_metric_or_an_expression_is_written() -> None:
    assert told() == [": has neither metric nor expression; write exactly one of the two"]
    assert told(metric="cpu_percent", expression="sum(app.x)") == [
        ": has metric and expression; write exactly one of the two"
    ]
    assert told(statistic="sum", expression="sum(app.x)") == [
        ".statistic: is of a metric, and there is an expression; write it in the expression"
    ]
    assert told(metric="cpu_persent") == [
        ".metric: 'cpu_persent' is no metric; write cpu_percent, or app.<name> for one of the application's own"
    ]


PIECES = ("sum", "p95", "(", ")", "cpu_percent", "app.x", 'app.x{a="', "in_service", "min", ",", "+", "-")
PIECES += (
    "/",
    "*",
    "**",
    "1",
    "0",
    "1e308",
    ".",
    "_",
    "lambda",
    "'",
    "\0",
    "\ud800",
    "٣",
    "\u2003",
    "{",
    "}",
)
hostile = st.text() | st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@given(hostile)
@example("-" * MAX_CHARACTERS)
@example("sum(app.x)" + "+1" * 495)
@example("min(" * 300)
@example("sum(app.x" + '{"' * 495)
def test_no_text_raises_anything_but_the_fault(text: str) -> None:
    try:
        expression = parse(text)
    except ExpressionError:
        return
    for reading in (0.0, 7.0, 1e308, math.inf):
        names = {str(term): reading for term in expression.terms} | {"in_service": 3.0, "desired": 4.0}
        value = expression.value(names)
        assert value is None or math.isfinite(value)


atoms = st.sampled_from(("average(cpu_percent)", "sum(app.backlog)", "in_service", "0.0", "3.0", "0.7"))
sums = st.recursive(
    atoms,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner).map("({0[0]} {0[1]} {0[2]})".format)
        | st.tuples(st.sampled_from(("min", "max")), inner, inner).map("{0[0]}({0[1]}, {0[2]})".format)
    ),
    max_leaves=8,
)


@given(sums, sums, st.sampled_from("+-*/"))
def test_it_is_the_arithmetic_of_python(left: str, right: str, sign: str) -> None:
    text = f"{left[1:-1] if left[0] == '(' else left} {sign} {right} + average(cpu_percent)"
    plain = text.replace("average(cpu_percent)", "50.0").replace("sum(app.backlog)", "120.0")
    try:
        expected = eval(plain, {"in_service": 4.0, "desired": 6.0})
    except ZeroDivisionError:
        expected = None
    assert parse(text).value(NAMES) == expected
