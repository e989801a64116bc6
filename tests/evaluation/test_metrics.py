import copy
import pickle
from pathlib import Path

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from raysel.errors import UserError
from raysel.evaluation import metrics
from raysel.evaluation.metrics import CountedScore, answered, chrf_pp, chrf_pp_of_corpus, qa_em, qa_f1, rouge_l

SAID = ["The cat sat on the mat.", "它在垫子上。", "", "แมวนั่งบนเสื่อ", "Paka aliketi juu ya mkeka"]
RIGHT = ["A cat is sitting on the mat.", "猫坐在垫子上。", "nothing", "แมวนอนบนเสื่อ", "Paka amekaa juu ya mkeka"]
ENGLISH = st.text("abc DE.,'-$9\n", max_size=40)


@given(ENGLISH, ENGLISH)
def test_rouge_l_of_english_is_rouge_scores(right: str, said: str) -> None:
    expected = RougeScorer(["rougeL"]).score(right, said)["rougeL"].fmeasure
    assert rouge_l([right], [said]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("right", "said", "value"),
    [
        ("猫坐在垫子上", "猫在垫子上", 2 * 5 / 11),
        ("東京に行く", "東京へ行く。", 0.8),
        ("แมวดำ", "แมวดำ", 1.0),
        ("पानी पियो", "पानी दो", 0.5),
        ("Straße", "STRASSE", 1.0),
        ("日本語", "English", 0.0),
    ],
)
def test_rouge_l_by_hand_where_rouge_score_sees_no_letters(right: str, said: str, value: float) -> None:
    assert rouge_l([right], [said]) == pytest.approx(value)


def test_chrf_pp_is_sacrebleus() -> None:
    oracle = CHRF(word_order=2)
    scores = [chrf_pp([right], [said]) for right, said in zip(RIGHT, SAID, strict=True)]
    for score, right, said in zip(scores, RIGHT, SAID, strict=True):
        assert score == oracle.sentence_score(said, [right]).score
    assert chrf_pp_of_corpus(scores) == pytest.approx(oracle.corpus_score(SAID, [RIGHT]).score, abs=1e-9)
    assert chrf_pp_of_corpus(scores[:1] * 2 + scores[3:4]) == pytest.approx(
        oracle.corpus_score([SAID[0], SAID[0], SAID[3]], [[RIGHT[0], RIGHT[0], RIGHT[3]]]).score, abs=1e-9
    )
    assert chrf_pp_of_corpus(scores) != pytest.approx(sum(scores) / len(scores), abs=0.01)


def test_the_counts_of_a_sentence_survive_copies() -> None:
    score = chrf_pp([RIGHT[0]], [SAID[0]])
    for again in (pickle.loads(pickle.dumps(score)), copy.deepcopy(score)):  # noqa: S301 (its own bytes)
        assert isinstance(again, CountedScore)
        assert (float(again), again.counts) == (float(score), score.counts)


@pytest.mark.parametrize(
    ("right", "said", "articles", "f1", "exact"),
    [
        ("the Nile", "Nile.", "a an the", 1.0, 1.0),
        ("the Nile", "Nile.", "", 2 / 3, 0.0),
        ("Ann Lee\nAnn", "ann!", "", 1.0, 1.0),
        ("ten miles", "about ten miles", "", 0.8, 0.0),
        ("北京市", "北京", "", 0.8, 0.0),
        ("1,000", "１,０００", "", 1.0, 1.0),
        ("της Αθήνας", "ΑΘΗΝΑΣ", "της", 0.0, 0.0),
        ("της ΑΘΗΝΑΣ", "αθηνας", "της", 1.0, 1.0),
        ("", "", "", 1.0, 1.0),
        ("", "who", "", 0.0, 0.0),
        ("who", " ", "", 0.0, 0.0),
    ],
)
def test_answers_to_questions_by_hand(right: str, said: str, articles: str, f1: float, exact: float) -> None:
    assert qa_f1([right], [said], articles=articles) == pytest.approx(f1)
    assert qa_em([right], [said], articles=articles) == exact


WORDS = st.lists(st.sampled_from(["the", "red", "fox", "a", "den", "ran"]), min_size=1, max_size=6)


@given(WORDS, WORDS)
def test_the_overlap_is_that_of_unigrams_in_rouge_1(right: list[str], said: list[str]) -> None:
    bare = [" ".join(word for word in words if word not in ("a", "the")) for words in (right, said)]
    expected = RougeScorer(["rouge1"]).score(*bare)["rouge1"].fmeasure if any(bare) else 1.0
    one, other = " ".join(right), " ".join(said)
    assert qa_f1([one], [other], articles="a an the") == pytest.approx(expected)
    assert qa_em([one], [other], articles="a an the") == (bare[0] == bare[1])


@settings(max_examples=50)
@given(st.text(max_size=30), st.text(max_size=30))
def test_in_any_script_they_stay_in_their_range(right: str, said: str) -> None:
    for value in (rouge_l([right], [said]), qa_f1([right], [said]), qa_em([right], [said])):
        assert 0 <= value <= 1
    assert qa_em([right], [said]) <= qa_f1([right], [said])
    assert qa_em([right], [right.splitlines()[-1] if right.splitlines() else ""]) == 1


def test_an_answer_is_one_that_is_not_blank() -> None:
    assert [answered(["x"], [said]) for said in ("yes", " \n", "")] == [1.0, 0.0, 0.0]


def test_spbleu_is_refused_without_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sacrebleu.utils, "SACREBLEU_DIR", str(tmp_path))
    with pytest.raises(
        UserError, match=r"task x: metric spbleu needs the file .*flores200sacrebleuspm.*exclude_metrics"
    ):
        metrics.refuse_without_spbleu("x")


def test_spbleu_is_sacrebleus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small model of the same kind in the tokenizer's place."""
    import sentencepiece

    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "flores200sacrebleuspm"
    with file.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(RIGHT * 20), model_writer=stream, vocab_size=80, hard_vocab_limit=False
        )
    for module in (sacrebleu.utils, sacrebleu.tokenizers.tokenizer_spm):
        monkeypatch.setattr(module, "SACREBLEU_DIR", str(tmp_path))
    metrics._bleu.cache_clear()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
    said, right = ([" ".join(pieces.EncodeAsPieces(text)) for text in texts] for texts in (SAID, RIGHT))
    scores = [metrics.spbleu([r], [s]) for r, s in zip(RIGHT, SAID, strict=True)]
    assert metrics.spbleu_of_corpus(scores) == pytest.approx(
        BLEU(tokenize="none").corpus_score(said, [right]).score, abs=1e-9
    )
    assert scores[0] == pytest.approx(
        BLEU(tokenize="none", effective_order=True).sentence_score(said[0], [right[0]]).score
    )
    metrics._bleu.cache_clear()


def test_lm_eval_knows_them_and_knowing_them_twice_changes_nothing() -> None:
    from lm_eval.api.registry import get_aggregation, get_metric, is_higher_better

    metrics.register_metrics()
    metrics.register_metrics()
    for name in ("rouge_l", "chrf_pp", "spbleu", "qa_f1", "qa_em", "answered"):
        assert get_metric(name) is getattr(metrics, name)
        assert is_higher_better(name)
    assert get_aggregation("chrf_pp") is chrf_pp_of_corpus
