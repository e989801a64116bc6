"""DSIR: the authors' weights exactly, tokens of every script, draws that follow the weights."""

import json
import unicodedata
from collections import Counter
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.seeding import draw
from raysel.selection import dsir

TEXTS = st.lists(st.text(max_size=40), max_size=8)
TOKENIZERS = ["unicode", "wordpunct", "characters"]
MADE = [
    "The cat sat on the mat; the cat (a black one) was fat!",
    "",
    " \n\t",
    "नमस्ते दुनिया, यह हिन्दी है।",
    "ภาษาไทยเขียนโดยไม่เว้นวรรค 东京タワーは高い。",
    "e\u0301te\u0301 x² ½ don't_stop ΟΔΥΣΣΕΥΣ İstanbul 👩\u200d👩\u200d👧!",
]


def bucket(ngram: str, buckets: int = 10_000) -> int:
    return int(sha256(ngram.encode()).hexdigest(), 16) % buckets


def split_ngrams(text: str, tokenizer: str, buckets: int = 10_000) -> list[int]:
    words = dsir.tokenize(text, tokenizer)
    pairs = [f"{one} {other}" for one, other in pairwise(words)]
    return [bucket(ngram, buckets) for ngram in words + pairs]


def test_the_bucket_of_a_known_ngram() -> None:
    hashed, offsets = dsir.hashed_ngrams(["The cat"])
    assert hashed.dtype == np.uint32
    # sha256sum of "the", "the cat" and "cat": b9776d7d...cef544d0, 70a48cc5...468efbf, 77af778b...ed6744e.
    assert hashed.tolist() == [8288, 143, 2366] == [bucket("the"), bucket("the cat"), bucket("cat")]
    assert offsets.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't PANIC!!", ["don", "'", "t", "panic", "!!"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया", "।"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("e\u0301te\u0301 x²", ["e\u0301te\u0301", "x²"]),
        ("می\u200cخواهم \u200cبروم", ["می\u200cخواهم", "بروم"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("น้ำใส", ["น้ำ", "ใ", "ส"]),
        ("ខ្ញុំ\u200bទៅ", ["ខ្ញុំ", "ទៅ"]),
        ("ကျွန်ုပ်", ["ကျွ", "န်ု", "ပ်"]),
        ("ພາສາ", ["ພ", "າ", "ສ", "າ"]),
        ("བོད་ཡིག", ["བོ", "ད", "་", "ཡི", "ག"]),
        ("iPhoneを2台、タワー", ["iphone", "を", "2", "台", "、", "タ", "ワ", "ー"]),
        ("か\u3099く", ["か\u3099", "く"]),
        ("ok 👩\u200d👩\u200d👧❤\ufe0f", ["ok", "👩\u200d👩\u200d👧❤\ufe0f"]),
        ("\u200b \ufeff", []),
    ],
)
def test_unicode_tokens(text: str, tokens: list[str]) -> None:
    assert dsir.tokenize(text, "unicode") == tokens


def test_in_plain_scripts_both_patterns_find_the_same_tokens() -> None:
    plain = [character for character in map(chr, range(0xD800)) if dsir._PLAIN.fullmatch(character)]
    assert len(plain) > 10_000
    for text in ("{}", "a{}a", "!{}!"):
        for character in plain:
            spelled = text.format(character)
            assert dsir._UNICODE_TOKEN.findall(spelled) == dsir._WORDPUNCT.findall(spelled), hex(ord(character))


def test_word_characters_of_re_cut_hindi_and_join_thai() -> None:
    assert dsir.tokenize("नमस्ते", "wordpunct") == ["नमस", "्", "त", "े"]
    assert dsir.tokenize("สวยมาก", "wordpunct") == ["สวยมาก"]
    assert dsir.tokenize("नमस्ते जी", "characters") == ["न", "म", "स्ते", "जी"]


@given(st.text())
def test_only_white_space_and_lone_format_characters_are_left_out(text: str) -> None:
    left_out = Counter(text.lower()) - Counter("".join(dsir.tokenize(text, "unicode")))
    assert all(character.isspace() or unicodedata.category(character) == "Cf" for character in left_out)
    visible = "".join(character for character in text.lower() if not character.isspace())
    assert "".join("".join(dsir.tokenize(text, "characters")).split()) == visible


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(texts=TEXTS)
def test_ngrams_are_those_of_each_text_alone(tokenizer: str, texts: list[str]) -> None:
    hashed, offsets = dsir.hashed_ngrams(texts, tokenizer=tokenizer, buckets=97)
    assert len(offsets) == len(texts) + 1
    for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert Counter(hashed[start:end].tolist()) == Counter(split_ngrams(text, tokenizer, 97))
    assert dsir.tokens_of(offsets).tolist() == [len(dsir.tokenize(text, tokenizer)) for text in texts]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dsir.hashed_ngrams(MADE * 3)
    monkeypatch.setattr(dsir, "BLOCK", 4)
    for one, other in zip(whole, dsir.hashed_ngrams(MADE * 3), strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("source", ["made", "real"])
def test_weights_are_those_of_the_authors_package(source: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    package = pytest.importorskip("data_selection")
    if source == "made":
        raw, target = MADE, ["The fat cat, यह ΟΔΥΣΣΕΥΣ", "東京 is on the mat"]
    else:
        corpus = request.getfixturevalue("shared_data") / "corpus.parquet"
        table = pq.read_table(corpus, columns=["lang", "prompt", "response"])
        rows = table.take(np.random.default_rng(0).choice(table.num_rows, 400, replace=False)).to_pylist()
        assert len({row["lang"] for row in rows}) > 30
        texts = [f"{row['prompt']}\n{row['response']}" for row in rows]
        raw, target = texts[:300], texts[300:]
    files = {}
    for name, texts in (("raw", raw), ("target", target)):
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    theirs = package.HashedNgramDSIR([str(files["raw"])], [str(files["target"])], str(tmp_path / "cache"), num_proc=1)
    theirs.fit_importance_estimator()
    theirs.compute_importance_weights()

    hashed, offsets = dsir.hashed_ngrams(raw, tokenizer="wordpunct")
    target_counts = dsir.count(dsir.hashed_ngrams(target, tokenizer="wordpunct")[0])
    assert np.array_equal(dsir.log_ratio(dsir.count(hashed), target_counts), theirs.log_diff)
    expected = np.load(theirs.log_importance_weights_dir / "0.npy")
    ours = dsir.log_importance(raw, target, tokenizer="wordpunct")
    # The same terms, summed in another order.
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-10)
    assert np.array_equal(dsir.tokens_of(offsets), np.load(theirs.perexample_metadata_dir / "0.npy"))


@given(texts=TEXTS, order=st.randoms(use_true_random=False))
def test_a_weight_belongs_to_its_text(texts: list[str], order: object) -> None:
    raw = [*texts, "a text", *texts]
    found = dsir.log_importance(raw, MADE, buckets=97)
    assert np.array_equal(found[: len(texts)], found[len(texts) + 1 :])
    assert all(found[i] == 0 for i, text in enumerate(raw) if not dsir.tokenize(text))
    rows = list(range(len(raw)))
    order.shuffle(rows)
    assert np.array_equal(dsir.log_importance([raw[i] for i in rows], MADE, buckets=97), found[rows])


def test_what_looks_like_the_target_weighs_most() -> None:
    target = ["สวยมากเลย", "ภาษาไทยสวย"]
    found = dsir.log_importance(["ภาษาไทยสวยมาก", "東京は高い", "a black cat"], target)
    assert found[0] > 0 > max(found[1:])


def test_smoothing_is_added_to_the_target() -> None:
    ratio = dsir.log_ratio(np.array([1, 1]), np.array([3, 0]), smoothing=1.0)
    np.testing.assert_allclose(ratio, np.log([(4 / 5) / (1 / 2), (1 / 5) / (1 / 2)]), atol=1e-7)


@pytest.mark.parametrize(
    ("raw", "target", "empty"), [([""], ["a"], "raw"), (["a"], [" "], "target"), ([], ["a"], "raw")]
)
def test_nothing_to_weigh_by_is_refused(raw: list[str], target: list[str], empty: str) -> None:
    with pytest.raises(ValueError, match=f"no n-gram in the {empty} texts"):
        dsir.log_importance(raw, target)


def test_an_impossible_number_of_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="0 buckets"):
        dsir.hashed_ngrams(["a"], buckets=0)


def test_gumbel_draws_follow_the_weights() -> None:
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    draws = [dsir.gumbel_order(np.log(shares), list("abcd"), seed=seed) for seed in range(4_000)]
    first = Counter(int(order[0]) for order in draws)
    seen = np.array([first[i] for i in range(4)])
    # The 99.9% point of chi-square with 3 degrees of freedom.
    assert np.sum((seen - 4_000 * shares) ** 2 / (4_000 * shares)) < 16.27
    # Without replacement: the second is drawn from what is left.
    after = Counter(int(order[1]) for order in draws if order[0] == 0)
    left = first[0] * shares[1:] / 0.6
    assert np.sum((np.array([after[i] for i in (1, 2, 3)]) - left) ** 2 / left) < 13.82


@given(st.lists(st.text("abc", min_size=1), unique=True, max_size=20), st.data())
def test_a_draw_does_not_depend_on_the_other_rows(ids: list[str], data: st.DataObject) -> None:
    weights = np.array(data.draw(st.lists(st.floats(-50, 50), min_size=len(ids), max_size=len(ids))))
    kept = [i for i in range(len(ids)) if data.draw(st.booleans())]
    whole = [ids[i] for i in dsir.gumbel_order(weights, ids, seed=5)]
    part = [ids[kept[i]] for i in dsir.gumbel_order(weights[kept], [ids[i] for i in kept], seed=5)]
    assert part == [identity for identity in whole if identity in part]


def test_gumbel_order_is_seeded_and_ties_go_by_id() -> None:
    ids = [f"{i:02d}" for i in range(30)]
    order = dsir.gumbel_order(np.zeros(30), ids, seed=1)
    assert sorted(order) == list(range(30))
    assert not np.array_equal(order, dsir.gumbel_order(np.zeros(30), ids, seed=2))
    noise = np.array([-np.log(-np.log(draw(1, f"gumbel\0{identity}"))) for identity in ids])
    assert np.array_equal(order, np.argsort(-noise))
    # Beside a weight this large the noise is lost, so all keys are the same.
    assert dsir.gumbel_order(np.full(30, 1e20), ids[::-1], seed=1).tolist() == list(range(29, -1, -1))


def test_kl_reduction_by_hand() -> None:
    target, random, selected = np.array([8, 0]), np.array([3, 5]), np.array([7, 1])
    shares = [target / 8, (random + 1) / 10, (selected + 1) / 10]

    def divergence(other: np.ndarray) -> float:
        return float(np.log(1 / other[0]))

    reduction = dsir.kl_reduction(target, random, selected)
    assert reduction == pytest.approx(divergence(shares[1]) - divergence(shares[2]))
    assert reduction > 0 > dsir.kl_reduction(target, selected, random)
    assert dsir.kl_reduction(target, random, random) == 0
    with pytest.raises(ValueError, match="no n-gram in the selected texts"):
        dsir.kl_reduction(target, random, np.zeros(2))
    with pytest.raises(ValueError, match="smoothing 0"):
        dsir.kl_reduction(target, random, selected, smoothing=0)


def test_selecting_by_weight_brings_the_texts_nearer_to_the_target() -> None:
    cats = [f"a cat and a {colour} mat" for colour in ("red", "green", "blue", "grey")]
    stocks = [f"the price of {ware} fell by {i} percent" for i in range(3) for ware in ("tin", "oil", "rice", "wool")]
    raw, ids = cats + stocks, [f"{i}" for i in range(16)]
    chosen = dsir.gumbel_order(dsir.log_importance(raw, ["the cat sat on a mat"]), ids, seed=0)[:4]
    counts = [
        dsir.count(dsir.hashed_ngrams(texts)[0])
        for texts in (["the cat sat on a mat"], raw[::4], [raw[i] for i in chosen])
    ]
    assert dsir.kl_reduction(*counts) > 0


def test_effective_sample_size() -> None:
    assert dsir.effective_sample_size(np.full(7, 3.0)) == pytest.approx(7)
    assert dsir.effective_sample_size(np.array([0.0, 1000.0, -1000.0])) == pytest.approx(1)
    assert dsir.effective_sample_size(np.log([1.0, 2.0, 3.0]) + 5000) == pytest.approx(36 / 14)
    assert dsir.effective_sample_size(np.zeros(0)) == 0
