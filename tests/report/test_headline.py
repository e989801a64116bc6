"""The five lines and the cost: what they say of a run, of a part of one, of a difference that may be noise."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.evaluation.intervals import Interval
from raysel.report.asked import budget_words, training_words
from raysel.report.comparison import Comparison
from raysel.report.cost import cost
from raysel.report.findings import Findings
from raysel.report.formats import visible
from raysel.report.headline import headline, strip
from raysel.report.heldout_loss import HeldoutLoss
from raysel.report.provenance import Published
from raysel.report.result_lines import Compared
from raysel.report.score_summary import ScoreSummary
from raysel.report.training_log import read_log
from tests.report.made_run import CONTROLS, CONTROLS_SHOWN

LABELS = ["Corpus", "Selection", "Training", "Result", "By language"]
EXPERIMENT = {
    "model": {"path": "/models/tiny"},
    "preselect": {"rho": 0.5, "band": "high"},
    "selection": {"method": "kmc"},
    "mixture": {"quota": "proportional", "total": 12},
    "training": {"method": "full", "data": {"epochs": 3}},
}


def line(lang: str, base: float, tuned: float, p: float | None, metric: str = "acc", **changed) -> Compared:
    shown = [Interval(value, value - 0.1, value + 0.1) for value in (base, tuned)]
    difference = Interval(tuned - base, tuned - base - 0.05, tuned - base + 0.05)
    return replace(Compared(lang or "average", lang, metric, 100, *shown, difference, p), **changed)


def compared(overall: Compared, *languages: Compared) -> Comparison:
    cells = list(languages)
    return Comparison(cells, [overall], [], [], cells, [], overall.metric, ["base", "tuned"], ["test"])


def summary(score: float) -> ScoreSummary:
    made = ScoreSummary(["en", "sw"])
    made.add(["en", "sw"], np.array([score, score]), ["sw", "en"])
    return made


def texts(findings: Findings, experiment: dict | None = None) -> dict[str, str]:
    lines = headline(findings, EXPERIMENT if experiment is None else experiment)
    assert [of.label for of in lines] == LABELS
    return {of.label: f"{of.figure}: {of.text}" for of in lines}


def test_a_whole_run_in_five_lines():
    findings = Findings(
        languages={"en": 10, "sw": 14},
        heldout=3,
        scores=summary(0.25),
        selected_scores=summary(0.5),
        chosen={"subset": {"en": 6, "sw": 6}},
        log=read_log('{"step": 0, "loss": 4.0, "tokens": 1500}\n{"step": 1, "loss": 3.0, "tokens": 500}\n'),
        heldout_loss=HeldoutLoss(np.array([0, 2]), np.array([5.0, 4.5]), {}),
        comparison=compared(line("", 0.4, 0.45, 0.21), line("en", 0.4, 0.6, 0.001), line("sw", 0.4, 0.3, 0.01)),
    )
    said = texts(findings)
    assert said == {
        "Corpus": "24 rows in 2 languages: 10 to 14 rows a language; 3 more held out",
        "Selection": "12 rows of 24 (50.0%): by KMC from the 50% of each language with the highest separability; "
        "asked for: 12 rows, each language in proportion. Mean separability 0.250 → 0.500",
        "Training": "2 steps: tiny (all weights, 3 epochs), 2,000 tokens; held-out loss 5.00 → 4.50",
        "Result": "+5.0 points: mean accuracy over 2 languages, 40.0% → 45.0%, 95% interval 0.0 to +10.0. "
        "No clear difference: the choice of test items alone may explain it (p 0.210)",
        "By language": "1 better, 1 worse: better in English +20.0; worse in Swahili −10.0",
    }
    tones = [of.tone for of in headline(findings, EXPERIMENT)]
    assert tones == ["", "", "", "unclear", ""]


def test_of_what_is_not_there_the_lines_say_so():
    said = texts(Findings(), {})
    assert all(text.startswith("missing: ") for text in said.values())
    alone = replace(line("", 0.4, 0.5, None), base=None, difference=None)
    only_tuned = replace(compared(alone, replace(alone, lang="en")), models=["tuned"])
    said = texts(Findings(comparison=only_tuned))
    assert said["Result"] == (
        "50.0%: mean accuracy over 1 language of the tuned model alone, 95% interval 40.0 to 60.0: "
        "there is no other to compare it with"
    )
    assert said["By language"].startswith("missing: ")


@pytest.mark.parametrize(
    ("overall", "words", "tone"),
    [
        (line("", 0.4, 0.5, 0.0004), "Clearly better (p < 0.001)", "better"),
        (line("", 0.5, 0.4, 0.03), "Clearly worse (p 0.030)", "worse"),
        (line("", 0.4, 0.5, 0.051), "No clear difference", "unclear"),
        (line("", 0.4, 0.4, 1.0, same=True), "No item's score changed", "unclear"),
        (line("", 20.0, 10.0, 0.001, "word_perplexity"), "Clearly better", "better"),
        (replace(line("", 10.0, 12.0, None, "bleu"), base=Interval(10.0)), "Without an interval", "unclear"),
    ],
)
def test_the_verdict_is_in_plain_words(overall, words, tone):
    found = headline(Findings(comparison=compared(overall, replace(overall, lang="en"))), {})[3]
    assert words in found.text
    assert found.tone == tone


def test_many_languages_are_counted():
    clear = [line(f"q{chr(97 + k)}a", 0.3, 0.4 + k / 100, 0.01) for k in range(8)]
    said = texts(Findings(comparison=compared(line("", 0.4, 0.5, 0.01), *clear, line("en", 0.4, 0.41, 1.0))))
    text = said["By language"]
    assert text.startswith("8 better, 0 worse: better in qha +17.0, ")
    assert text.endswith(" and 3 more; no clear difference in 1 language, each on its own")


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_strip_holds_the_interval_and_zero_in_its_middle(value, below, above):
    drawn = strip(Interval(value, value - below, value + above))
    if drawn is None:
        assert value == below == above == 0
        return
    assert 0 <= drawn.left <= drawn.value + 0.02
    assert drawn.value <= drawn.left + drawn.width + 0.02 <= 100.02
    assert np.sign(drawn.value - 50) in (0, np.sign(value))


def test_no_strip_without_an_interval():
    assert strip(Interval(0.5)) is None
    assert strip(None) is None


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ({"quota": "everything"}, "everything in the pool"),
        ({"quota": "even", "total": 0.05}, "5.0% of the rows, as many of each language"),
        ({"quota": "counts", "counts": {"en": 5, "sw": 2}}, "the counts given for 2 languages"),
        (
            {"quota": "pivot", "pivot": "en", "pivot_rows": 1000, "rows_per_language": 20},
            "1,000 rows of en and 20 of each other language",
        ),
        ({}, ""),
    ],
)
def test_the_budget_in_words(mixture, words):
    assert budget_words({"mixture": mixture}) == words
    assert budget_words({"mixture": mixture, "selection": {"tokens": 5000}}) == "5,000 tokens"


def test_training_in_words():
    assert training_words({"training": {"method": "lora", "data": {"epochs": 1}}}) == "LoRA, 1 epoch"
    assert training_words({}) == ""


def published(
    name: str, seconds: float, *, address: str = "", devices: dict | None = None, earlier: int = 0
) -> Published:
    files = [{"path": "now/a", "bytes": 100 - earlier}, {"path": "before/b", "bytes": earlier}]
    manifest = {
        "stage": name,
        "fingerprint": address or name,
        "wall_seconds": seconds,
        "attempt": "now",
        "files": files,
    }
    return Published(name, manifest | ({"devices": devices} if devices else {}), str, "")


def test_cost_by_hand():
    steps = [
        published("corpus", 60, devices={"CPU": 8, "GPU": 0}),
        published("vectors", 1800, devices={"CPU": 64, "GPU": 4}, earlier=25),
        published("model", 3600, devices={"CPU": 64, "GPU": 4}),
        published("old", 40),
    ]
    found = cost(steps, ["corpus", "old"])
    assert found.seconds == 5500
    assert found.device_hours == {"CPU": pytest.approx(8 / 60), "GPU": pytest.approx(6)}
    assert [step.name for step in found.reused or []] == ["corpus", "old"]
    assert found.reused_seconds == 100
    assert [step.carried_on for step in found.steps] == [0, 0.25, 0, 0]
    assert [step.name for step in found.of_unknown_devices] == ["old"]
    assert cost(steps, None).reused is None


def test_an_artifact_of_two_steps_is_paid_once():
    one, other = published("subset", 10), published("subset_kmc", 10)
    other.manifest.update(stage="subset", fingerprint="subset")
    found = cost([one, other], [])
    assert found.seconds == 10
    assert [step.same_as for step in found.steps] == [None, "subset"]


def test_hidden_characters_have_a_sign():
    assert visible(CONTROLS) == CONTROLS_SHOWN
    # Tab and newline lay out a text; Persian and Hindi are written with joiners, Hebrew beside Latin with marks.
    kept = "a\tb\nc \u200cمی\u200cخواهم क्\u200dष \u200fשלום\u200e"
    assert visible(kept) == kept


@given(st.characters())
def test_what_is_shown_goes_by_the_category(char):
    category = unicodedata.category(char)
    shown = visible(char)
    if category[0] in "LMNPS" or category == "Zs" or char in "\t\n":
        assert shown == char
    elif category in ("Cc", "Cs", "Zl", "Zp"):
        assert shown != char
    assert visible(shown) == shown
