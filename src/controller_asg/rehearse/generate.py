"""Made-up traces: the shapes that tell policies apart, each from its seed alone.

Loads are in requests a second, 100 or so on average, at steps of 10 s. Only their shapes count.
"""

import math
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from controller_asg.rehearse.load import HEADER, TICK_SECONDS, Trace

HOUR = 3600 // TICK_SECONDS
DAY = 24 * HOUR
NOISE_SECONDS = 60.0
Loads = list[float]


def step(chance: random.Random) -> Loads:
    """Six hours: 50, for two hours three times as much at once, and back."""
    return [50.0] * (2 * HOUR) + [150.0] * (2 * HOUR) + [50.0] * (2 * HOUR)


def ramp(chance: random.Random) -> Loads:
    """Eight hours: 50 to 200 within two hours, there for two, and back within two."""
    up = [50 + 150 * tick / (2 * HOUR) for tick in range(2 * HOUR)]
    return [50.0] * HOUR + up + [200.0] * (2 * HOUR) + up[::-1] + [50.0] * HOUR


def sine_day(chance: random.Random) -> Loads:
    """A week of days between 40 and 160, with 5 % noise: a season that can be learnt."""
    wave = (100 - 60 * math.cos(2 * math.pi * tick / DAY) for tick in range(7 * DAY))
    return _with_noise(list(wave), 0.05, chance)


def flash_crowd(chance: random.Random) -> Loads:
    """Two days at 60, and four crowds of four to six times as many that come within three minutes and fade in forty."""
    loads = [60.0] * (2 * DAY)
    rise, fade = 180 / TICK_SECONDS, 2400 / TICK_SECONDS
    for place in chance.sample(range(11), 4):
        begin = (2 + 4 * place) * HOUR + chance.randrange(HOUR)
        crowd = 60 * chance.uniform(3, 5)
        for tick in range(begin, min(begin + DAY // 4, len(loads))):
            since = tick - begin
            loads[tick] += crowd * min(1.0, since / rise) * math.exp(-max(0.0, since - rise) / fade)
    return _with_noise(loads, 0.05, chance)


def sawtooth(chance: random.Random) -> Loads:
    """A day of hourly teeth from 50 to 150 that fall at once."""
    return [50 + 100 * (tick % HOUR) / HOUR for tick in range(DAY)]


def random_walk(chance: random.Random) -> Loads:
    """Three days whose logarithm walks at random and is drawn back within six hours: nothing can be forecast."""
    loads, logarithm = [], 0.0
    for _ in range(3 * DAY):
        loads.append(100 * math.exp(logarithm))
        logarithm += chance.gauss(0, 0.006) - logarithm / (6 * HOUR)
    return loads


def on_off(chance: random.Random) -> Loads:
    """A day of 40 and 160 by turns, each for fifteen minutes on average, with 3 % noise."""
    loads: Loads = []
    level = 40.0
    while len(loads) < DAY:
        loads += [level] * max(1, int(chance.expovariate(4 / HOUR)))
        level = 200 - level
    return _with_noise(loads[:DAY], 0.03, chance)


def flat(chance: random.Random) -> Loads:
    """A day at 100 with 5 % noise: no change at all would be right."""
    return _with_noise([100.0] * DAY, 0.05, chance)


SHAPES: dict[str, Callable[[random.Random], Loads]] = {
    "step": step,
    "ramp": ramp,
    "sine-day": sine_day,
    "flash-crowd": flash_crowd,
    "sawtooth": sawtooth,
    "random-walk": random_walk,
    "on-off": on_off,
    "flat": flat,
}


def generate(shape: str, seed: int = 1) -> Trace:
    """A trace of that shape; its name begins with `synthetic-`."""
    chance = random.Random(f"{shape} {seed}")  # noqa: S311 - a load, no secret
    loads = SHAPES[shape](chance)
    seconds = tuple(float(tick * TICK_SECONDS) for tick in range(len(loads)))
    return Trace(f"synthetic-{shape}", seconds, tuple(loads))


def write_trace(trace: Trace, path: Path) -> None:
    """As CSV that `load.read_trace` reads."""
    rows = (f"{second:.0f},{load:.2f}" for second, load in zip(trace.seconds, trace.loads, strict=True))
    path.write_text("\n".join([HEADER, *rows]) + "\n")


def _with_noise(loads: Loads, share: float, chance: random.Random) -> Loads:
    noise = islice(_noise(share, chance), len(loads))
    return [max(0.0, load * (1 + each)) for load, each in zip(loads, noise, strict=True)]


def _noise(share: float, chance: random.Random) -> Iterator[float]:
    """Gaussian noise of this standard deviation that forgets itself within a minute (AR(1))."""
    kept = math.exp(-TICK_SECONDS / NOISE_SECONDS)
    fresh = share * math.sqrt(1 - kept * kept)
    value = chance.gauss(0, share)
    while True:
        yield value
        value = kept * value + chance.gauss(0, fresh)
