"""URIEL's data: read without the package, and without trusting its pickle."""

import io
from pathlib import Path

import numpy as np
import pytest

from raysel.languages import BACTRIAN_X, uriel
from raysel.languages.choice import choose
from raysel.languages.codes import iso639_3
from raysel.languages.picture import picture
from raysel.languages.uriel import UrielError, read_pickled_npy

CODES = [iso639_3(lang)[0] for lang in BACTRIAN_X]
WIDTHS = {"syntax": 103, "phonology": 28, "inventory": 158, "geo": 299, "learned": 512}
WITHOUT_LEARNED = ["ar", "az", "en", "fa", "gl", "gu", "he", "ka", "kk", "ml", "mn", "mr", "ps", "si", "sw", "te"]


@pytest.mark.parametrize(("group", "width"), WIDTHS.items())
def test_features_of_the_52_languages(group: str, width: int) -> None:
    found = uriel.features(group, CODES)
    missing = [lang for lang, code in zip(BACTRIAN_X, CODES, strict=True) if code not in found]
    assert missing == (WITHOUT_LEARNED if group == "learned" else [])
    assert {vector.shape for vector in found.values()} == {(width,)}
    assert {vector.dtype for vector in found.values()} == {np.dtype(np.float64)}
    assert all(np.isfinite(vector).all() for vector in found.values())
    if group in ("syntax", "phonology", "inventory"):
        assert set(np.concatenate(list(found.values()))) == {0.0, 1.0}


def test_families_of_the_52_languages() -> None:
    found = uriel.families(CODES)
    assert len(found) == 52
    assert len(set(found.values())) == 14
    assert list(found.values()).count("Indo-European") == 29
    assert (found["kat"], found["swa"], found["vie"]) == ("Kartvelian", "Atlantic-Congo", "Austroasiatic")
    # An isolate has none.
    assert uriel.families(["eus", "no such code"]) == {}


def test_places_on_the_map_are_where_the_languages_are() -> None:
    shown = picture(choose("geo", 3, seed=0))
    assert shown.kind == "map"
    place_of = {line.lang: line.place for line in shown.candidates}
    for lang, longitude, latitude in (("en", -1, 53), ("ja", 135, 35), ("af", 30, -22), ("fi", 26, 65), ("sw", 30, -3)):
        assert place_of[lang] == pytest.approx((longitude, latitude), abs=1.5)


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


class Codec:
    def __reduce__(self):
        import _codecs

        return _codecs.encode, ("text", "rot13")


def pickled(content: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(content, dtype=object), allow_pickle=True)
    return stream.getvalue()


def test_arrays_by_language_come_through_the_restricted_unpickler() -> None:
    vectors = {b"swa": np.arange(3, dtype=np.float32), "eng": np.ones(2)}
    found = read_pickled_npy(pickled(vectors)).item()
    assert found.keys() == vectors.keys()
    assert all(np.array_equal(found[code], vectors[code]) for code in vectors)


@pytest.mark.parametrize("content", [{"swa": Malicious()}, {"swa": Codec()}, {"swa": print}, {"swa": Path("x")}])
def test_a_pickle_that_would_run_anything_else_is_refused(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UrielError, match="not loaded"):
        read_pickled_npy(pickled(content))
    assert not list(tmp_path.iterdir())
