"""The whole page, made by the real stage on a real cluster from artifacts in a store."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rich.console import Console

from raysel.evaluations import find_results
from raysel.progress import Progress
from raysel.report.formats import decimal, language_name, percent
from raysel.store import Artifact, Store
from tests.report.made_run import HISTORY, HOSTILE, STEPS, TEXTS, heldout_losses, make_run, measured, run_stage
from tests.test_evaluations import published as results_of

MANY = (
    "af ar bg bn ca cs de el en es et eu fa fi fr gl ha he hi hr ht hu hy id it ja ka kk ko lt mk mr nl pl pt qu ro ru "
    "sq sr sv sw ta te th tl tr uk ur vi yo zh"
)
LANGUAGES = ["en", "sw", "ar", "zh", "hi"]
SCORED = ("headline", "warnings", "corpus", "audit", "separability", "diagnostics", "vectors", "map")
FETCHES = ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def published(store: Store) -> dict[str, Artifact]:
    return make_run(store, LANGUAGES)


@pytest.fixture(scope="module")
def html(published: dict[str, Artifact], store: Store, cluster: Any) -> bytes:
    """The page of the whole run."""
    return run_stage(published, store, cluster, Progress(Console(quiet=True), "report"))


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its texts, its attributes."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def ids(self) -> list[str]:
        return [value or "" for _, name, value in self.attributes if name == "id"]

    @property
    def sections(self) -> set[str]:
        return {value or "" for tag, name, value in self.attributes if tag in ("section", "header") and name == "id"}


def test_whole_run_has_every_section(published, store, html):
    page = Page(html)
    assert page.sections == {
        "headline", "warnings", "corpus", "audit", "languages", "separability", "diagnostics", "vectors", "map",
        "selection", "curriculum", "training", "results", "items", "cost", "provenance",
    }  # fmt: skip
    text = " ".join(page.texts)
    total = sum(published["corpus"].summary["languages"].values())
    selected = published["subset"].rows("subset")
    text = re.sub(r"\s+", " ", text)
    assert f"Corpus {total:,} rows in 5 languages :" in text
    assert f"Selection {selected:,} rows of {total:,} ({percent(selected / total)}) : by Random from the 33%" in text
    assert f"Training {STEPS} steps : tiny-llama" in text
    for artifact in published.values():
        assert artifact.fingerprint in text
        assert store.shown(artifact.address) in text


def test_samples_are_shown_with_what_was_said_before(html):
    text = " ".join(Page(html).texts)
    for role, message in zip(("System", "User", "Assistant"), HISTORY, strict=True):
        assert text.count(f"{role}, before the prompt") == 2 * len(LANGUAGES)
        assert text.count(message["content"]) == 2 * len(LANGUAGES)


def test_chosen_languages_are_shown_with_those_they_stand_for(html, published, store, cluster, progress):
    text = re.sub(r"\s+", " ", " ".join(Page(html).texts))
    assert "3 of 5 languages are trained on, by k-means on geographical features." in text
    found = published["quota"].summary["languages"]
    section = text[text.index("Where URIEL places the languages") :]
    for line in found["picture"]["candidates"]:
        assert (f"{language_name(line['lang'])} {line['lang']} {line['family']}" in section) == line["chosen"]
    assert {line["cluster"] for line in found["picture"]["candidates"]} == set(found["chosen"])
    svg = html.decode()[html.decode().index("The chosen languages among the candidates") :].partition("</svg>")[0]
    assert re.findall(r">([a-z]{2})</text>", svg) == sorted(line["lang"] for line in found["picture"]["candidates"])
    assert "var(--c0)" in svg
    assert "#" not in "".join(re.findall(r"(?:fill|stroke): [^;\"]*", svg))

    everything = {key: value for key, value in found.items() if key != "picture"} | {"strategy": "all"}
    manifest = published["quota"].manifest
    summary = {**published["quota"].summary, "languages": everything}
    without = replace(published["quota"], manifest={**manifest, "summary": summary})
    assert "languages" not in Page(run_stage({"quota": without}, store, cluster, progress)).sections


def test_the_audit_is_counted_by_finding_and_language_with_examples(html, published, store, cluster, progress):
    text = re.sub(r"\s+", " ", " ".join(Page(html).texts))
    rows = published["audit"].summary["rows"]
    section = text[text.index(f"{rows:,} rows, the held-out ones among them") : text.index("How clearly a sample")]
    assert "Nothing was left out for it" in section
    counts = published["audit"].summary["counts"]
    totals = [sum(of.values()) for of in counts.values()]
    titles = [finding.replace("_", " ").capitalize() for finding in counts]
    assert f"Language {' '.join(titles)} All {' '.join(map(str, totals))}" in section
    assert section.count("0.91 like") == 2
    assert section.count("damaged") == section.count("Degenerate ·") == 1
    assert section.count("Prompt of the other") == 2

    clean = {**published["corpus"].summary, "dropped_by_finding": {"near_duplicate": {"en": 4}}}
    cleaned = replace(
        published["corpus"], manifest={**published["corpus"].manifest, "summary": clean, "stage": "clean"}
    )
    part = {"corpus": published["corpus"], "audit": published["audit"], "clean": cleaned}
    text = " ".join(Page(run_stage(part, store, cluster, progress)).texts)
    assert "Left out of everything that follows: 4 rows for near duplicate." in re.sub(r"\s+", " ", text)


def test_held_out_loss_by_language_the_largest_fall_first(html, published, store, cluster, progress):
    page = Page(html)
    text = re.sub(r"\s+", " ", " ".join(page.texts))
    assert "before the training, at 3 checkpoints, and after it" in text
    first, last = (heldout_losses(LANGUAGES)[at] for at in (0, -1))
    changes = {lang: last["loss_by_lang"][lang] - first["loss_by_lang"][lang] for lang in LANGUAGES}
    table = text[text.index("Held-out loss of each language") :]
    written = [decimal(changes[lang], sign=True) for lang in sorted(changes, key=changes.get)]
    assert re.findall(r"[−+]\d\.\d{3}", table)[:6] == [decimal(last["loss"] - first["loss"], sign=True), *written]
    assert "the rows are filled to 90% of their training.data.max_tokens" in text

    files = [entry for entry in published["model"].manifest["files"] if entry["table"] != "heldout_loss"]
    without = replace(published["model"], manifest={**published["model"].manifest, "files": files})
    alone = Page(run_stage({"model": without}, store, cluster, progress))
    assert "training" in alone.sections
    assert not [text for text in alone.texts if "Held-out loss" in text]


def test_compared_selectors_stand_side_by_side(published, store, cluster, progress):
    trained = set(published["subset"].read("subset")["id"].to_pylist())
    others = {}
    for step, ids in {"subset_kmc": trained, "subset_random_corpus": sorted(trained)[::2]}.items():
        rows = published["subset"].read("subset")
        kept = rows.filter(pc.is_in(rows["id"], value_set=pa.array(sorted(ids))))
        attempt = store.attempt("subset", step)
        made = [attempt.write_table("subset", 0, kept)]
        others[step] = attempt.publish(made, settings={}, inputs={}, version=1, summary={})
    weighed = {"effective_samples": {"en": 12.0, "sw": 3.0}}
    for step, stage, summary in (("importance", "importance", weighed), ("subset", "subset", {"kl_reduction": 0.25})):
        attempt = store.attempt(stage, f"dsir-{step}")
        rows = published["subset"].read("subset")
        table = rows if step == "subset" else rows.select(["id", "lang", "score"])
        records = [attempt.write_table(step, 0, table)]
        others[step] = attempt.publish(records, settings={}, inputs={}, version=1, summary=summary)
    page = Page(run_stage(published | others, store, cluster, progress))
    assert "overlap" in page.sections
    text = " ".join(" ".join(page.texts).split())
    assert "LangGPS + KMC Random what is trained on" in text
    assert "0.250 nats nearer to the target" in text
    assert "worth 15 equal ones" in text
    share = decimal(len(range(0, len(trained), 2)) / len(trained), 2)
    assert f"{decimal(1.0, 2)} {share} {decimal(1.0, 2)}" in text
    assert "overlap" not in Page(run_stage(published, store, cluster, progress)).sections


def test_diversity_stands_beside_the_corpus(published, store, cluster, progress):
    alone = {"diversity": measured(store, {"subset": ("kmc", "pool")}, "alone")}
    html = run_stage(published | alone, store, cluster, progress)
    page = Page(html)
    assert "diversity" in page.sections
    assert "overlap" not in page.sections
    text = " ".join(" ".join(page.texts).split())
    assert "the whole corpus 90 33.0 0.000 0.400 0.500 0.750 0.000 LangGPS + KMC 89 33.0 0.100 0.420" in text
    assert "(60 pairs a language)" in text
    assert "Of sw a sample of rows was looked at" in text
    assert "Swahili sw 0.400 –" in text
    # Of one choice there is no front.
    assert b"Pareto" not in html


def test_separability_against_diversity_of_the_compared(published, store, cluster, progress):
    choices = {"subset": ("dsir", "pool"), "subset_random_corpus": ("random", "corpus"), "subset_kmc": ("kmc", "pool")}
    beside = {"diversity": measured(store, choices)}
    for step in ("subset_random_corpus", "subset_kmc"):
        attempt = store.attempt("subset", f"beside-{step}")
        made = [attempt.write_table("subset", 0, published["subset"].read("subset").slice(0, 9))]
        beside[step] = attempt.publish(made, settings={}, inputs={}, version=1, summary={})
    html = run_stage(published | beside, store, cluster, progress)
    page = Page(html)
    assert "overlap" in page.sections
    assert "diversity" not in page.sections
    assert len(page.ids) == len(set(page.ids))
    text = " ".join(" ".join(page.texts).split())
    # Each of the made-up choices is more separable and less diverse than the one before.
    assert "ringed and joined: what is trained on, Random, LangGPS + KMC." in text
    svg = html.decode()[html.decode().index("Mean separability of each choice") :].partition("</svg>")[0]
    labels = set(re.findall(r">([^<>]+)</text>", svg))
    assert {"the whole corpus", "Random", "LangGPS + KMC", "what is trained on"} <= labels
    assert "#" not in "".join(re.findall(r"(?:fill|stroke): [^;\"]*", svg))


def test_texts_of_others_are_never_markup(html):
    page = Page(html)
    # The page's own.
    assert page.tags.count("script") == 1
    assert not {"img", "iframe", "object", "link", "base", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert sum(HOSTILE in text for text in page.texts) >= 5
    assert HOSTILE.encode() not in html


def test_page_needs_no_network(html):
    page, text = Page(html), html.decode()
    outside = [entry for entry in page.attributes if entry[1] in FETCHES and not (entry[2] or "").startswith("#")]
    assert outside == []
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_references_within_the_page_have_one_target(html):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    targets = {value[1:] for _, name, value in page.attributes if name == "href" and value}
    paths = [value or "" for _, name, value in page.attributes if name == "clip-path"]
    clips = {target for path in paths for target in re.findall(r"#([^)]*)", path)}
    assert targets | clips <= set(page.ids)


def test_writing_systems_keep_their_direction(html):
    page = Page(html)
    text = "".join(page.texts)
    assert TEXTS["ar"][1] in text
    assert TEXTS["zh"][1] in text
    texts = [value for tag, name, value in page.attributes if tag == "div" and name == "lang"]
    assert {"ar", "zh"} <= set(texts)
    assert ("div", "dir", "auto") in page.attributes


def test_what_was_reused_is_told_from_what_was_computed(published, store, cluster, progress):
    page = Page(run_stage(published, store, cluster, progress, reused=["corpus", "vectors"], folder="/out/runs/it's"))
    text = " ".join(" ".join(page.texts).split())
    assert f"Of {len(published)} steps 2 were in the store before this run" in text
    cost = text[text.index("Carried on") : text.index("Wall time is of the attempt")]
    assert re.findall(r"(\w+) (reused|computed)", cost) == [
        (name, "reused" if name in ("corpus", "vectors") else "computed") for name in published
    ]
    assert """raysel run '/out/runs/it'"'"'s'/experiment.yaml""" in text
    for name, artifact in published.items():
        assert f"{name} {artifact.fingerprint}" in text
        assert artifact.manifest_digest() in text


def test_same_artifacts_same_bytes(published, store, html, cluster, progress):
    assert run_stage(published, store, cluster, progress) == html


def test_secrets_in_addresses_stay_out(html):
    assert b"hunter2" not in html
    assert b"hunter3" not in html
    assert b"s3://bucket/place?region=eu" in html


@pytest.mark.parametrize(
    ("until", "sections"),
    [
        ("corpus", {"headline", "warnings", "corpus", "cost", "provenance"}),
        ("audit", {"headline", "warnings", "corpus", "audit", "cost", "provenance"}),
        ("scores", {*SCORED, "cost", "provenance"}),
        ("pool", {*SCORED, "languages", "selection", "cost", "provenance"}),
    ],
)
def test_what_the_run_did_not_come_to_is_left_out(until, sections, published, store, cluster, progress):
    names = list(published)
    part = {name: published[name] for name in names[: names.index(until) + 1]}
    assert Page(run_stage(part, store, cluster, progress)).sections == sections


@pytest.mark.parametrize("only", ["scores", "results_base", "results_tuned", "model", "quota"])
def test_any_single_artifact_makes_a_page(only, published, store, cluster, progress):
    page = Page(run_stage({only: published[only]}, store, cluster, progress))
    assert {"headline", "provenance"} <= page.sections
    assert published[only].fingerprint in " ".join(page.texts)


def test_models_with_no_result_in_common_make_a_page(tmp_path, cluster, progress):
    store = Store(str(tmp_path))

    def page(base, tuned):
        results = {
            "results_base": results_of(tmp_path, "a", **base),
            "results_tuned": results_of(tmp_path, "b", **tuned),
        }
        return Page(run_stage({name: find_results(place) for name, place in results.items()}, store, cluster, progress))

    shown = page({"tasks": {"xcopa_sw": "sw"}, "lacking": 2}, {"tasks": {"xnli_sw": "sw"}, "fingerprint": "c" * 24})
    assert "there are no averages" in " ".join(shown.texts)
    assert "results" in shown.sections
    some = page({"fingerprint": "d" * 24}, {"lacking": 2})
    assert "In 3 results some items have a value in one model only" in " ".join(some.texts)


def test_nothing_published_makes_a_page(store, cluster, progress):
    assert Page(run_stage({}, store, cluster, progress, experiment={})).sections == {"headline", "provenance"}


@pytest.mark.slow
def test_fifty_two_languages(tmp_path: Path, cluster, progress):
    store = Store(str(tmp_path))
    html = run_stage(make_run(store, MANY.split(), rows=200), store, cluster, progress)
    page = Page(html)
    assert "Haitian Creole" in " ".join(page.texts)
    assert len(page.ids) == len(set(page.ids))
    assert len(html) < 3e6
