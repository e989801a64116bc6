"""How many samples per language are enough: saturating curves, where they level off, and how surely that is known.

A curve is y(x) = a - b·r(x), r falling from 1 at x = 0 to 0: r = exp(-x / c), or the power law r = 1 / (1 + x / c),
whose tail is long: 95% of the way is 4.3 half-way points for the first and 19 for the second. a and b are solved for
(variable projection: Golub & Pereyra 1973), the half-way point is searched for. Both forms have three parameters, so
that AICc takes the one with less squares. A free exponent would be a fourth: of one run at each of eight x, AICc took
such a power law for none of the guide's 21 tables, and where it was true for 22 of 150 simulated ones with noise of
3% of b, for none with 8%; intervals that trust the exponential then hold the plateau in 7 to 15% of cases.

Intervals that leave the form open hold it in 93 to 100% (120 or 150 simulated sets each: one run or three over eight x,
one over sixteen; both forms, plateaus from 180 to 3,600, noise of 3, 8 and 20% of b), but in 87% for one run of a power
law with its plateau at 2,500 and little noise. Of noise alone 95% is called flat, of noise with the tails of t with 3
degrees of freedom 93 to 94%.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from raysel.errors import UserError
from raysel.evaluation.intervals import Interval, spread_quantiles
from raysel.evaluation.significance import LEVEL, SAMPLED

Array = NDArray[np.float64]
Form = Literal["exponential", "power"]
Shape = tuple[Form, float]
FEWEST = 5
# Half-way points: before a seventh of the first measured x, less than 1% of an exponential is left there, and after
# ten times the last x the curve is straight within what was measured.
BEFORE, AFTER = 1 / 7, 10
HALVES = 240
# With the 1,000 of other intervals the ends of plateaus move by a third from seed to seed: their draws are skewed.
DRAWS = 4000
# The guide's claim: a plateau at 400 samples per language, after which 13 times as many bring nothing.
CLAIMED, MORE = 400.0, 5000.0


@dataclass(frozen=True)
class Curve:
    """asymptote - rise · exp(-x / scale), or asymptote - rise / (1 + x / scale) for the form `power`.

    rise is negative where values fall. scale: in samples per language.
    """

    form: Form
    scale: float
    asymptote: float = 0.0
    rise: float = 1.0

    def at(self, x: ArrayLike) -> Array:
        """The values at x, of any shape."""
        values: Array = self.asymptote - self.rise * _remaining(self.form, np.asarray(x, np.float64) / self.scale)
        return values

    def change(self, start: float, end: float) -> float:
        """The value at one x less that at another."""
        return float(self.at(end) - self.at(start))

    def plateau(self, tolerance: float) -> float:
        """The x from which on less than this share of the rise is left."""
        return self.scale * _reach(self.form, tolerance)


@dataclass(frozen=True)
class Saturation:
    """Where a curve levels off, in samples per language.

    verdict: `flat` where the points are no clearer than noise around one value, `not reached` where the plateau is
    beyond the measured range; a plateau before the first measured x rests on the form alone. p: of the test against one
    value. plateau, low, high: the least x with all of the way to the asymptote but `tolerance`, and its 95% interval;
    None for what is beyond the last measured x, and for `flat`. claim: whether the interval holds the claimed plateau
    (`consistent`) or lies before or after it. gain: the curve at `more` less the curve at the claimed plateau; None for
    `flat` and where `more` was not measured.
    """

    verdict: Literal["reached", "not reached", "flat"]
    p: float
    curve: Curve | None = None
    plateau: float | None = None
    low: float | None = None
    high: float | None = None
    claim: Literal["consistent", "earlier", "later"] | None = None
    gain: Interval | None = None


def relative_to_english(values: Mapping[str, float]) -> float:
    """The mean of the other languages / English, of one checkpoint, for a metric of which more is better (arXiv
    2504.16677, figures). values: language -> value. Raises UserError without English, without another language and for
    an English value that is not above 0."""
    others, english = _apart(values)
    return others / english


def _apart(values: Mapping[str, float]) -> tuple[float, float]:
    others = [value for lang, value in values.items() if lang != "en"]
    if "en" not in values or not others:
        raise UserError(f"relative to English: English and another language are needed, there is {', '.join(values)}")
    if bad := [lang for lang, value in values.items() if not np.isfinite(value)]:
        raise UserError(f"relative to English: the value of {', '.join(bad)} is no finite number")
    if not values["en"] > 0:
        raise UserError(f"relative to English: the English value is {values['en']:g}, which must be above 0")
    return float(np.mean(others)), float(values["en"])


def saturation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    seed: int,
    tolerance: float = 0.05,
    claimed: float = CLAIMED,
    more: float = MORE,
) -> Saturation:
    """Where y levels off over x, whether it does, and whether that is where it is claimed to.

    x: (n,) samples per language, increasing from 0. y: (n,), or (S, n) of S runs whose levels may differ (seeds).
    Intervals draw the residuals of all runs and fit both forms anew, so that they hold what the form leaves open.
    Raises UserError for fewer than five x, no x = 0, values that are not finite, and a tolerance outside (0, 1).
    """
    points, runs = _checked(x, y, tolerance)
    p = flat_p(points, runs, seed=seed)
    if p > LEVEL:
        return Saturation("flat", p)
    curve = fit(points, runs)
    shapes, places, rises = _redrawn(points, runs, curve, np.random.default_rng(seed))
    drawn = [Curve(*shape) for shape in shapes]
    last, degrees = float(points[-1]), _degrees(runs)
    value = curve.plateau(tolerance)
    plateaus = np.log([of.plateau(tolerance) for of in drawn])[places]
    low, high = np.exp(spread_quantiles(np.log(value), plateaus, degrees))
    gain = None
    if max(claimed, more) <= last:
        change = curve.change(claimed, more)
        changes = rises * np.array([of.change(claimed, more) for of in drawn])[places]
        gain = Interval(change, *spread_quantiles(change, changes, degrees))
    return Saturation(
        "reached" if value <= last else "not reached",
        p,
        curve,
        plateau=_within(value, last),
        low=_within(low, last),
        high=_within(high, last),
        claim="later" if low > claimed else "earlier" if high < claimed else "consistent",
        gain=gain,
    )


def _within(x: float, last: float) -> float | None:
    return float(x) if x <= last else None


def fit(x: ArrayLike, y: ArrayLike) -> Curve:
    """The curve of least squares through the means of the runs, of either form; x, y and errors as in `saturation`."""
    points, runs = _checked(x, y)
    mean = runs.mean(axis=0)
    return min((_best(points, mean, form) for form in get_args(Form)), key=lambda curve: _squares(points, mean, curve))


def flat_p(x: ArrayLike, y: ArrayLike, *, seed: int) -> float:
    """The p of the best exponential against one value, x and y as in `saturation`.

    Where the rise is 0 the scale has no value, and no F distribution holds (Davies 1987, "Hypothesis testing when
    a nuisance parameter is present only under the alternative"). The largest F over all scales is compared with that
    of 9,999 draws of normal noise, of which neither level nor spread matter.
    """
    points, runs = _checked(x, y)
    if np.ptp(runs - runs.mean(axis=1, keepdims=True)) <= 1e-12 * np.abs(runs).max():
        return 1.0
    observed = _explained(runs[None], _centred(points, _shapes(points, ["exponential"]))[0])
    return (int((_of_noise(tuple(points), len(runs), seed) >= observed - 1e-12).sum()) + 1) / (SAMPLED + 1)


@lru_cache(maxsize=8)
def _of_noise(x: tuple[float, ...], runs: int, seed: int) -> Array:
    """What the best exponential explains of noise alone: the same for all curves over these x."""
    noise = np.random.default_rng(seed).normal(size=(SAMPLED, runs, len(x)))
    return _explained(noise, _centred(np.array(x), _shapes(np.array(x), ["exponential"]))[0])


def _explained(runs: Array, basis: Array) -> Array:
    """(D,) shares of the squares of (D, S, n) runs, each about its own mean, that the best curve explains."""
    about = runs - runs.mean(axis=-1, keepdims=True)
    share: Array = ((about.mean(axis=1) @ basis.T) ** 2).max(axis=1) * runs.shape[1] / (about**2).sum(axis=(1, 2))
    return share


def _remaining(form: Form, scales: Array) -> Array:
    """r(x): which share of the way is left after so many scales."""
    left: Array = np.exp(-scales) if form == "exponential" else 1 / (1 + scales)
    return left


def _reach(form: Form, left: float) -> float:
    """x / scale where this share is left."""
    return float(-np.log(left) if form == "exponential" else 1 / left - 1)


def _shapes(x: Array, forms: Sequence[Form]) -> list[Shape]:
    """Curves with half-way points over all that can be told from x."""
    halves = np.geomspace(x[1] * BEFORE, x[-1] * AFTER, HALVES)
    return [(form, float(half / _reach(form, 0.5))) for form in forms for half in halves]


def _centred(x: Array, shapes: Sequence[Shape]) -> tuple[Array, Array]:
    """(G, n) rows of r(x) about their mean, of length 1, and (G,) the lengths that they had."""
    rows = np.array([_remaining(form, x / scale) for form, scale in shapes])
    rows -= rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1)
    return rows / lengths[:, None], lengths


def _best(x: Array, y: Array, form: Form) -> Curve:
    """The best of the form's shapes, then the best between its neighbours."""
    shapes = _shapes(x, [form])
    place = int(((_centred(x, shapes)[0] @ y) ** 2).argmax())
    ends = [shapes[min(max(near, 0), len(shapes) - 1)][1] for near in (place - 1, place + 1)]

    def curve(log_scale: float) -> Curve:
        return _solved(x, y, form, float(np.exp(log_scale)))

    found = minimize_scalar(
        lambda log_scale: _squares(x, y, curve(log_scale)), bounds=np.log(ends), options={"xatol": 1e-8}
    )
    return curve(found.x)


def _solved(x: Array, y: Array, form: Form, scale: float) -> Curve:
    left = _remaining(form, x / scale)
    about = left - left.mean()
    rise = float(-(about @ y) / (about @ about))
    return Curve(form, scale, float(y.mean() + rise * left.mean()), rise)


def _squares(x: Array, y: Array, curve: Curve) -> float:
    return float(((curve.at(x) - y) ** 2).sum())


def _degrees(runs: Array) -> int:
    """What is left after a level for each run, the rise and the scale."""
    return runs.size - len(runs) - 2


def _redrawn(
    x: Array, runs: Array, curve: Curve, generator: np.random.Generator
) -> tuple[list[Shape], NDArray[np.int64], Array]:
    """Shapes of both forms, and of DRAWS curves, fitted to this one with drawn residuals, (DRAWS,) which of the shapes
    and (DRAWS,) rises."""
    fitted = curve.at(x)
    residuals = runs - runs.mean(axis=1, keepdims=True) - (fitted - fitted.mean())
    residuals *= np.sqrt(runs.size / _degrees(runs))
    means = fitted + generator.choice(residuals.ravel(), size=(DRAWS, *runs.shape)).mean(axis=1)
    shapes = _shapes(x, get_args(Form))
    rows, lengths = _centred(x, shapes)
    along = means @ rows.T
    places = (along**2).argmax(axis=1)
    return shapes, places, -along[np.arange(DRAWS), places] / lengths[places]


def _checked(x: ArrayLike, y: ArrayLike, tolerance: float = 0.5) -> tuple[Array, Array]:
    """(n,) and (S, n), of which no more needs to be asked."""
    points, runs = np.asarray(x, np.float64), np.atleast_2d(np.asarray(y, np.float64))
    if points.ndim != 1 or runs.ndim != 2 or runs.shape[1] != len(points) or not len(runs):
        raise UserError(f"a curve needs a value at each x in every run: x is {points.shape}, y {runs.shape}")
    if len(points) < FEWEST:
        raise UserError(f"{len(points)} numbers of samples per language say nothing of a curve: measure {FEWEST}")
    if points[0] != 0 or not (np.diff(points) > 0).all():
        raise UserError(
            "samples per language must increase from 0 (English alone), from where the way to the plateau is measured: "
            f"they are {', '.join(f'{point:g}' for point in points)}"
        )
    if not (np.isfinite(runs).all() and np.isfinite(points).all()):
        raise UserError("a value of the curve is no finite number: leave out the x at which a run failed")
    if not 0 < tolerance < 1:
        raise UserError(f"a tolerance of {tolerance:g} is no share of the way: take one between 0 and 1")
    return points, runs
