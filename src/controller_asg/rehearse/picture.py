"""Pictures of a rehearsal: for the terminal, as PNG, and as an HTML page that needs nothing else.

The libraries come with the extra `report`, and are imported where they draw: they cost half a second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from controller_asg.rehearse.figures import Figures
from controller_asg.rehearse.load import TICK_SECONDS
from controller_asg.rehearse.world import Schedule

TERMINAL_COLUMNS, TERMINAL_LINES = 100, 16
DAY_HOURS = 24
COLOURS = ("#1f6feb", "#d29922", "#8957e5", "#2da44e", "#bf3989", "#6e7781", "#a0522d")
DEMAND_COLOUR, MARK_COLOUR = "#24292f", "#cf222e"
# In the order of the fields of Figures: the head, and what it means.
EXPLAINED = (
    ("τU %", "time with too little capacity"),
    ("θU %", "of the need that was missing"),
    ("τO %", "time with more capacity than needed"),
    ("θO %", "of the need that was there on top of it"),
    ("cost", "paid time over that of somebody who knows the future"),
    ("changes/h", "changes of the desired capacity in an hour"),
    ("reversals/day", "changes that turned back within ten minutes"),
    ("mean N", "instances in service on average"),
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A change of the desired capacity, and the policy's own line about it."""

    tick: int
    desired: int
    reason: str


@dataclass(frozen=True, slots=True)
class Replay:
    """One trace, and what each policy made of it by name; `marks` are the first one's.

    `demand` in instances, a value a tick, as are the schedules.
    """

    trace: str
    demand: Sequence[float]
    schedules: Mapping[str, Schedule]
    figures: Mapping[str, Figures]
    marks: Sequence[Mark]


def terminal(replay: Replay, colour: bool) -> str:
    """Demand at its highest and the first policy's capacity at its lowest in each column, so no shortage is hidden."""
    from uniplot import plot_to_string

    ours, schedule = next(iter(replay.schedules.items()))
    width = max(1, -(-len(replay.demand) // (2 * TERMINAL_COLUMNS)))
    starts = range(0, len(replay.demand), width)
    unit, name = _unit(len(replay.demand))
    drawn: str = plot_to_string(
        [
            [min(schedule.in_service[start : start + width]) for start in starts],
            [max(replay.demand[start : start + width]) for start in starts],
        ],
        [[start * unit for start in starts]] * 2,
        lines=True,
        color=colour,
        character_set="braille",
        width=TERMINAL_COLUMNS,
        height=TERMINAL_LINES,
        y_min=0,
        title=f"{replay.trace}: instances over {name}",
        legend_labels=[f"in service by {ours} (upper line where all is well)", "demand"],
    )
    return drawn


def write_png(replays: Sequence[Replay], path: Path) -> None:
    """One panel a trace. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6 * len(replays)), layout="constrained")
    panels = figure.subplots(len(replays), squeeze=False)[:, 0]
    for panel, replay in zip(panels, replays, strict=True):
        unit, name = _unit(len(replay.demand))
        at = [tick * unit for tick in range(len(replay.demand))]
        panel.plot(at, replay.demand, color=DEMAND_COLOUR, linewidth=0.7, label="demand")
        for colour, (policy, schedule) in zip(COLOURS, replay.schedules.items(), strict=False):
            panel.step(at, schedule.in_service, where="post", color=colour, linewidth=1, label=policy)
        panel.plot(
            [mark.tick * unit for mark in replay.marks],
            [mark.desired for mark in replay.marks],
            ".",
            color=MARK_COLOUR,
            markersize=3,
            label="changes",
        )
        panel.set(title=replay.trace, xlabel=name, ylabel="instances", ylim=(0, None))
        panel.margins(x=0)
        panel.legend(loc="upper right", fontsize="small")
    figure.savefig(path, dpi=110, format="png")


def write_html(replays: Sequence[Replay], delay_seconds: float, path: Path) -> None:
    """A page with all its code inside: a table of figures and a plot to zoom into for each trace. Raises OSError."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    loader = PackageLoader("controller_asg.rehearse")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(
        "report.html.j2"
    )
    text = page.render(
        explained=EXPLAINED,
        delay_seconds=delay_seconds,
        traces=[
            {
                "name": replay.trace,
                "figures": {policy: astuple(of) for policy, of in replay.figures.items()},
                "plot": Markup(_plot(replay, f"plot-{number}")),  # noqa: S704 - plotly escapes what it holds
            }
            for number, replay in enumerate(replays)
        ],
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library itself
    )
    path.write_text(text)


def _plot(replay: Replay, name: str) -> str:
    from plotly.graph_objects import Figure
    from plotly.io import to_html

    unit, axis = _unit(len(replay.demand))
    figure = Figure(
        layout={
            "template": "none",
            "height": 420,
            "margin": {"l": 50, "r": 20, "t": 10, "b": 45},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
            "xaxis": {"title": {"text": axis}, "rangeslider": {"visible": True, "thickness": 0.08}},
            "yaxis": {"title": {"text": "instances"}, "rangemode": "tozero"},
        }
    )
    figure.add_scatter(
        x=[round(tick * unit, 5) for tick in range(len(replay.demand))],
        y=[round(each, 3) for each in replay.demand],
        name="demand",
        line={"color": DEMAND_COLOUR, "width": 1},
    )
    for colour, (policy, schedule) in zip(COLOURS, replay.schedules.items(), strict=False):
        for label, sizes, dash in (
            (policy, schedule.in_service, "solid"),
            (f"{policy}, desired", schedule.desired, "dot"),
        ):
            ticks = _changes(sizes)
            figure.add_scatter(
                x=[round(tick * unit, 5) for tick in ticks],
                y=[sizes[tick] for tick in ticks],
                name=label,
                line={"color": colour, "width": 1.5, "shape": "hv", "dash": dash},
                visible=True if dash == "solid" else "legendonly",
            )
    figure.add_scatter(
        x=[round(mark.tick * unit, 5) for mark in replay.marks],
        y=[mark.desired for mark in replay.marks],
        text=[mark.reason for mark in replay.marks],
        hovertemplate="%{text}<extra></extra>",
        mode="markers",
        name="changes, with their reasons",
        marker={"color": MARK_COLOUR, "size": 6},
    )
    return str(
        to_html(
            figure,
            include_plotlyjs=False,
            full_html=False,
            div_id=name,
            config={"scrollZoom": True, "displaylogo": False},
        )
    )


def _changes(sizes: Sequence[int]) -> list[int]:
    """The ticks that draw a step line: the first, each change, and the last."""
    last = len(sizes) - 1
    return [tick for tick, size in enumerate(sizes) if tick in (0, last) or size != sizes[tick - 1]]


def _unit(ticks: int) -> tuple[float, str]:
    """A tick in the axis's unit, and that unit's name."""
    hours = TICK_SECONDS / 3600
    return (hours, "hours") if ticks * hours <= 2 * DAY_HOURS else (hours / DAY_HOURS, "days")
