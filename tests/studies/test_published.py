import numpy as np
import pytest

from raysel.errors import UserError
from raysel.studies import published
from raysel.studies.saturation import relative_to_english

# The last line of each table, as printed.
AVERAGES = {
    3: "4.26 4.32 4.34 4.31 4.25 4.33 4.31 4.29",
    4: "3.64 3.68 3.71 3.88 3.83 3.83 3.84 3.82",
    5: "3.74 3.79 3.78 3.77 3.81 3.8 3.82 3.69",
    6: "3.71 3.79 3.79 3.78 3.81 3.85 3.85 3.84",
    7: "2.52 2.61 2.96 2.69 3.01 2.9 2.93 2.95",
    8: "4.06 4.19 4.23 4.26 4.28 4.28 4.22 4.21 4.22 4.27 4.22 4.29 4.26 4.15 4.25 4.29",
    9: "3.71 3.8 3.85 3.7 3.88 3.8 3.87 3.83 3.83 3.8 3.78 3.83 3.79 3.72 3.78 3.84",
    10: "0.29 0.28 0.29 0.29 0.29 0.29 0.29 0.29",
    11: "0.25 0.26 0.26 0.26 0.27 0.27 0.26 0.27",
    12: "0.26 0.26 0.26 0.26 0.27 0.27 0.27 0.27",
    13: "0.26 0.26 0.26 0.27 0.27 0.27 0.27 0.27",
    14: "0.21 0.23 0.23 0.24 0.23 0.23 0.22 0.22",
    15: "0.28 0.29 0.29 0.3 0.3 0.3 0.3 0.3 0.3 0.29 0.29 0.3 0.29 0.3 0.3 0.3",
    16: "0.25 0.26 0.26 0.26 0.26 0.26 0.26 0.26 0.26 0.26 0.26 0.27 0.26 0.26 0.26 0.26",
    17: "0.62 0.64 0.64 0.66 0.66 0.64 0.65 0.64",
    18: "0.25 0.32 0.34 0.37 0.37 0.38 0.39 0.41",
    19: "0.25 0.33 0.36 0.34 0.35 0.36 0.37 0.4",
    20: "0.28 0.34 0.33 0.34 0.36 0.35 0.38 0.37",
    21: "0.19 0.4 0.4 0.4 0.45 0.39 0.43 0.4",
    22: "0.59 0.62 0.63 0.66 0.68 0.65 0.66 0.67 0.65 0.69 0.69 0.67 0.68 0.68 0.68 0.69",
    23: "0.23 0.26 0.12 0.21 0.28 0.24 0.23 0.22 0.23 0.26 0.24 0.27 0.31 0.28 0.22 0.34",
}
# The other languages relative to English, computed apart from these files.
RATIOS = {
    3: "0.920 0.939 0.949 0.940 0.939 0.950 0.940 0.950",
    4: "0.850 0.885 0.874 0.918 0.901 0.891 0.905 0.883",
    5: "0.875 0.903 0.893 0.883 0.883 0.898 0.903 0.867",
    6: "0.855 0.889 0.887 0.876 0.889 0.919 0.901 0.908",
    7: "0.568 0.567 0.673 0.611 0.680 0.672 0.668 0.690",
    8: "0.878 0.920 0.932 0.957 0.957 0.939 0.922 0.928 0.918 0.939 0.947 0.941 0.927 0.920 0.937 0.950",
    9: "0.866 0.897 0.879 0.863 0.897 0.882 0.908 0.885 0.889 0.885 0.907 0.895 0.889 0.867 0.889 0.888",
    10: "0.853 0.840 0.848 0.884 0.853 0.861 0.874 0.874",
    11: "0.810 0.882 0.872 0.897 0.867 0.871 0.867 0.835",
    12: "0.811 0.834 0.843 0.834 0.834 0.876 0.839 0.876",
    13: "0.772 0.833 0.786 0.808 0.848 0.853 0.857 0.881",
    14: "0.671 0.729 0.738 0.762 0.768 0.778 0.750 0.813",
    15: "0.818 0.888 0.828 0.879 0.879 0.892 0.879 0.879 0.896 0.866 0.879 0.857 0.902 0.887 0.887 0.857",
    16: "0.818 0.908 0.857 0.871 0.887 0.848 0.901 0.867 0.901 0.923 0.897 0.871 0.897 0.897 0.857 0.876",
    17: "0.791 0.800 0.799 0.833 0.804 0.783 0.801 0.776",
    18: "0.434 0.520 0.579 0.675 0.646 0.627 0.660 0.686",
    19: "0.497 0.577 0.631 0.588 0.577 0.574 0.604 0.645",
    20: "0.532 0.593 0.574 0.582 0.672 0.654 0.703 0.607",
    21: "0.224 0.618 0.599 0.617 0.630 0.595 0.618 0.583",
    22: "0.744 0.815 0.780 0.837 0.852 0.817 0.855 0.846 0.850 0.915 0.817 0.865 0.852 0.882 0.890 0.887",
    23: "0.391 0.516 0.329 0.409 0.543 0.460 0.521 0.508 0.514 0.523 0.426 0.523 0.505 0.481 0.380 0.492",
}

SINGLE = [0, 100, 200, 400, 800, 1000, 2000, 5000]
MULTI = [0, 100, *range(500, 7001, 500)]
LANGUAGES = ["ar", "en", "es", "fr", "ja", "ko", "pt", "zh"]


def numbers(line: str) -> list[float]:
    return [float(number) for number in line.split()]


def test_every_table_of_the_guide_is_whole() -> None:
    assert len(published.transfer()) == 15 * 8 * 8 + 6 * 8 * 16
    for number in AVERAGES:
        table = published.transfer_table(number)
        assert list(table.values) == (MULTI if table.mixture == "multi" else SINGLE)
        assert all(list(scores) == LANGUAGES for scores in table.values.values())
    tables = [published.transfer_table(number) for number in AVERAGES]
    assert sorted(table.table for table in tables if table.mixture == "multi") == [8, 9, 15, 16, 22, 23]
    assert [table.table for table in tables if table.model == "Llama 8B"] == [7, 14, 21]
    assert [table.table for table in tables if table.mixture == "[en,ja,zh]"] == [6, 13, 20]


# Cells and averages have two digits: rounding takes up to 0.005 off the mean of the cells, and as much off the average.
@pytest.mark.parametrize("number", AVERAGES)
def test_averages_are_those_that_are_printed(number: int) -> None:
    ours = [np.mean(list(scores.values())) for scores in published.transfer_table(number).values.values()]
    assert ours == pytest.approx(numbers(AVERAGES[number]), abs=0.0101)


@pytest.mark.parametrize("number", RATIOS)
def test_ratios_to_english_are_those_of_the_guide(number: int) -> None:
    ours = [relative_to_english(scores) for scores in published.transfer_table(number).values.values()]
    assert ours == pytest.approx(numbers(RATIOS[number]), abs=0.001)


def test_gains_relative_to_english_are_those_that_the_guide_states() -> None:
    def gain(number: int, at: int) -> float:
        values = published.transfer_table(number).values
        return 100 * (relative_to_english(values[at]) - relative_to_english(values[0]))

    # Stated: 6.8, 8.7, 22.7, 12.3, 14.7 and over 40, of unrounded scores.
    assert gain(4, 400) == pytest.approx(6.8, abs=0.1)
    assert gain(11, 400) == pytest.approx(8.7, abs=0.1)
    assert gain(18, 2000) == pytest.approx(22.7, abs=0.2)
    assert gain(7, 5000) == pytest.approx(12.3, abs=0.2)
    assert gain(14, 5000) == pytest.approx(14.7, abs=0.6)
    assert gain(21, 800) > 40


def test_there_is_no_other_table() -> None:
    with pytest.raises(UserError, match="table 2 is none of the guide's tables of scores: take 3 to 23"):
        published.transfer_table(2)


def test_language_choices_are_whole() -> None:
    rows = published.language_strategies()
    tasks = {"average", "pawsx", "xcopa", "xnli", "xstorycloze", "xwinograd"}
    assert len(rows) == len({(row.model, row.strategy, row.task) for row in rows}) == 5 * 7 * 6
    assert {row.task for row in rows} == tasks
    counts = published.language_counts()
    assert len(counts) == len({(row.model, row.languages, row.task) for row in counts}) == 2 * 17 * 6
    assert {row.languages for row in counts} == {*range(1, 15), 20, 26, 52}
    apart = published.monolingual()
    assert len(apart) == len({(row.model, row.trained_on, row.task) for row in apart}) == 5 * 8 * 2
    assert len(published.untuned()) == 3 * 6


@pytest.mark.parametrize("strategy", ["geo", "all"])
def test_fourteen_languages_and_all_are_in_both_files(strategy: str) -> None:
    languages = {"geo": 14, "all": 52}[strategy]
    counts = {
        (row.model, row.task): (row.mean, row.margin)
        for row in published.language_counts()
        if row.languages == languages
    }
    chosen = {
        (row.model, row.task): (row.mean, row.margin)
        for row in published.language_strategies()
        if row.strategy == strategy and row.model in ("BLOOM-7B1", "mGPT")
    }
    assert counts == chosen


def test_an_average_is_that_of_the_five_benchmarks() -> None:
    lines: dict[tuple[str, str], dict[str, float]] = {}
    for row in published.language_strategies():
        lines.setdefault((row.model, row.strategy), {})[row.task] = row.mean
    for count in published.language_counts():
        lines.setdefault((count.model, str(count.languages)), {})[count.task] = count.mean
    for base in published.untuned():
        lines.setdefault((base.model, "untuned"), {})[base.task] = base.value
    for name, line in lines.items():
        assert line.pop("average") == pytest.approx(np.mean(list(line.values())), abs=0.011), name


def test_the_best_strategies_are_those_that_the_paper_names() -> None:
    best: dict[str, tuple[float, str]] = {}
    for row in published.language_strategies():
        if row.task == "average":
            best[row.model] = max(best.get(row.model, (0.0, "")), (row.mean, row.strategy))
    assert best["BLOOM-7B1"] == (56.71, "typo")
    assert best["mGPT"] == (52.82, "geo")
    assert best["mT5-xl"] == (49.14, "fam")


def test_what_is_not_known_of_the_selectors_is_absent() -> None:
    known = {(row.model, row.selector, row.chosen_from): (row.tasks, row.gain_percent) for row in published.selectors()}
    assert known == {
        ("LLaMA-3.1-8B", "LESS", "all"): ("understanding", 4.90),
        ("LLaMA-3.1-8B", "LESS", "LangGPS pool"): ("understanding", 6.37),
        ("Qwen2.5-7B", "DSIR", "all"): (None, 2.61),
        ("Qwen2.5-7B", "DSIR", "LangGPS pool"): (None, 4.62),
    }


def test_every_file_says_where_it_is_from() -> None:
    assert published.transfer_table(18).caption == (
        "A Post-trainer's Guide to Multilingual Training Data (arXiv 2504.16677), Table 18"
    )
    captions = {
        file: published.source(file).caption()
        for file in (
            "language_strategy.csv", "language_count.csv", "monolingual.csv", "untuned.csv", "selectors.csv",
        )
    }  # fmt: skip
    assert all("arXiv 2410.07809" in captions[file] for file in captions if file != "selectors.csv")
    assert captions["selectors.csv"] == "LangGPS (arXiv 2511.10229), Table 1"
    with pytest.raises(UserError, match=r"there are transfer\.csv, language_strategy\.csv"):
        published.source("table.csv")  # type: ignore[arg-type]
