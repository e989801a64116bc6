"""Studies with invented values: what their pages and figures are made of, in no time."""

from raysel.studies.plan import Plan
from raysel.studies.results import Condition

SEEDS = (0, 1, 2)
NOISE = (0.0, 0.01, -0.01)
LANGS = ("ar", "de", "el", "en", "es", "fr", "hi", "ja", "ko", "ru", "sw", "th", "tr", "vi", "zh")


def invented(plan: Plan) -> list[Condition]:
    """Each condition of a plan with values that differ by seed, language and number; the first of two that a control
    compares is better where it must be."""
    seen: set[str] = set()
    found = []
    for of in plan.conditions:
        level = 3.0 + 0.02 * of.number
        if of.control is not None:
            detected = plan.controls[of.control].expected == "detected"
            level = 2.0 if detected and of.control not in seen else 3.0
            seen.add(of.control)
        values = {
            seed: {lang: level + place / 10 + NOISE[(seed + of.number) % 3] for place, lang in enumerate(LANGS)}
            for seed in SEEDS
        }
        addresses = {seed: f"results/{of.number:02d}{seed}" for seed in SEEDS}
        chosen = {}
        if plan.form.measure == "coverage":
            chosen = {seed: 0.5 - of.number / 20 + NOISE[seed] for seed in SEEDS}
        found.append(Condition(of.number, of.name, of.parameters, of.control, values, addresses, separability=chosen))
    return found
