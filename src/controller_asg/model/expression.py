"""Arithmetic over statistics of metrics: what a target tracking policy may hold at its target in place of one metric.

    sum     = product { ("+" | "-") product }
    product = atom { ("*" | "/") atom }
    atom    = number | "in_service" | "desired" | "(" sum ")" | ("min" | "max") "(" sum { "," sum } ")"
            | statistic "(" metric ")"

Nothing here is Python's: no strings, attributes or powers, and nothing to call but these. Python's own parser, and with
it the libraries that stand on it, can't read an application's metric, such as app.jobs{queue="mail"}. The text's length
and the depth of parentheses are bounded, and a parsed expression is a flat list of steps.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import NoReturn, get_args

from controller_asg.model.faults import near_name, shown
from controller_asg.model.immutable import immutable
from controller_asg.model.metric import Statistic, metric_fault

MAX_CHARACTERS = 1000
MAX_DEPTH = 20  # of parentheses

STATISTICS: dict[str, Statistic] = {name: name for name in get_args(Statistic)}
SIZES = ("in_service", "desired")
BINARY: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "min": min,
    "max": max,
}
# An application's metric is named as the agent names it, which is as OpenMetrics does: app.jobs{queue="mail"}
TOKEN = re.compile(
    r"""\s*(?: (?P<number> (?: [0-9]+ (?: \.[0-9]* )? | \.[0-9]+ ) (?: [eE][+-]?[0-9]+ )? )
             | (?P<metric> app\.[a-zA-Z_:][a-zA-Z0-9_:]* (?: \{ (?: [^"}] | "(?: [^"\\] | \\. )*" )* \} )? )
             | (?P<name> [a-zA-Z_][a-zA-Z0-9_]* )
             | (?P<sign> [-+*/(),] ) )""",
    re.VERBOSE,
)


class ExpressionError(ValueError):
    """A text that is no expression: `what` is wrong with it, and the `mend`."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.what, self.mend = what, mend


@immutable
class Term:
    """A statistic of a metric. `lowers`: it stands where more of it makes the value smaller, right of a - or a /.

    That is true of parts that are zero or more; what a negative one does to a product is not looked into.
    """

    statistic: Statistic
    metric: str
    lowers: bool

    def __str__(self) -> str:
        return f"{self.statistic}({self.metric})"


@immutable
class Expression:
    """`steps` in reverse Polish notation: a number, an operator, or a name (a term's text, or a size)."""

    steps: tuple[float | str, ...]
    terms: tuple[Term, ...]

    def value(self, names: Mapping[str, float]) -> float | None:
        """`names` holds `in_service`, `desired`, and each term by its text.

        None where it divides by zero, or a number grows beyond what a float holds.
        """
        stack: list[float] = []
        for step in self.steps:
            if isinstance(step, float):
                stack.append(step)
            elif step in BINARY:
                right = stack.pop()
                if step == "/" and not right:
                    return None
                stack[-1] = BINARY[step](stack[-1], right)
                if not math.isfinite(stack[-1]):
                    return None
            else:
                stack.append(names[step])
        return stack[0] if math.isfinite(stack[0]) else None


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """Raises ExpressionError, and nothing else, for every text that is no expression or names no metric."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"has {len(text)} characters", f"write {MAX_CHARACTERS} at the most")
    return _Parser(text).whole()


class _Parser:
    """Recursive descent, a method a rule; `lowers` tells on which side of a - or a / it is."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = self._depth = 0
        self._steps: list[float | str] = []
        self._terms: dict[str, Term] = {}

    def whole(self) -> Expression:
        self._sum(lowers=False)
        if self._tokens[self._at][0]:
            self._unexpected("an operator, or the end")
        if not self._terms:
            raise ExpressionError("names no metric", "write a statistic of one, as in average(cpu_percent)")
        return Expression(tuple(self._steps), tuple(self._terms.values()))

    def _sum(self, lowers: bool) -> None:
        self._product(lowers)
        while sign := self._take("+", "-"):
            self._product(lowers != (sign == "-"))
            self._steps.append(sign)

    def _product(self, lowers: bool) -> None:
        self._atom(lowers)
        while sign := self._take("*", "/"):
            self._atom(lowers != (sign == "/"))
            self._steps.append(sign)

    def _atom(self, lowers: bool) -> None:
        kind, text, place = self._tokens[self._at]
        if kind == "number":
            self._at += 1
            number = float(text)
            if not math.isfinite(number):
                raise ExpressionError(f"{shown(text)} at character {place} is too large", "write less")
            self._steps.append(number)
        elif self._take("("):
            self._arguments(lowers, "")
        elif self._take(*SIZES):
            self._steps.append(text)
        elif self._take("min", "max"):
            self._expect("(")
            self._arguments(lowers, text)
        elif kind in ("name", "metric"):
            self._statistic(lowers)
        else:
            self._unexpected("a number, a statistic of a metric, in_service, desired or (")

    def _arguments(self, lowers: bool, function: str) -> None:
        """What stands in parentheses; the opening one is taken. Several with `function` only, folded by it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(f"nests deeper than {MAX_DEPTH} parentheses", "write it flatter")
        self._sum(lowers)
        while function and self._take(","):
            self._sum(lowers)
            self._steps.append(function)
        self._expect(")")
        self._depth -= 1

    def _statistic(self, lowers: bool) -> None:
        kind, name, place = self._tokens[self._at]
        if kind == "metric" or metric_fault(name) is None:
            raise ExpressionError(
                f"{name} at character {place} is many values, one of each instance",
                f"write a statistic of it, as in average({name})",
            )
        if name not in STATISTICS:
            called = self._tokens[self._at + 1][1] == "("
            known = (*STATISTICS, "min", "max") if called else SIZES
            raise ExpressionError(
                f"{shown(name)} at character {place} is no known {'function' if called else 'name'}",
                "write " + (near_name(name, known) or f"one of {', '.join(known)}"),
            )
        self._at += 1
        self._expect("(")
        kind, metric, place = self._tokens[self._at]
        if kind not in ("name", "metric"):
            self._unexpected(f"the name of a metric, for {name} is a statistic of one,")
        if wrong := metric_fault(metric):
            raise ExpressionError(f"{wrong[0]} (character {place})", wrong[1])
        self._at += 1
        self._expect(")")
        term = Term(STATISTICS[name], metric, lowers)
        if lowers or str(term) not in self._terms:
            self._terms[str(term)] = term
        self._steps.append(str(term))

    def _take(self, *texts: str) -> str:
        """The token, if it is one of these; else "", and nothing is taken."""
        text = self._tokens[self._at][1]
        if text not in texts:
            return ""
        self._at += 1
        return text

    def _expect(self, text: str) -> None:
        if not self._take(text):
            self._unexpected(text)

    def _unexpected(self, wanted: str) -> NoReturn:
        _, text, place = self._tokens[self._at]
        seen = f"{shown(text)} at character {place} is out of place" if text else "ends too early"
        raise ExpressionError(seen, f"write {wanted} there")


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, place from 1); the last one, of no kind, is the end."""
    at, end = 0, len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise ExpressionError(
                f"{shown(text[at])} at character {at + 1} means nothing here",
                "write numbers, + - * /, parentheses, min, max, in_service, desired and statistics of metrics",
            )
        assert match.lastgroup is not None
        yield match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1
        at = match.end()
    yield "", "", end + 1
