"""The user's files about languages."""

from pathlib import Path

import pytest

from raysel.languages.codes import LanguageError
from raysel.languages.files import read_numbers, read_vectors


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"Swahili": 0.5, "eng": 3, "zh-Hans": "2e1"}'),
        ("a.csv", "language,share\nSwahili,0.5\neng,3\nzh-Hans,2e1\n"),
        ("b.csv", "Swahili,0.5,low\neng, 3\n\nzh-Hans,20\n"),
    ],
)
def test_numbers_by_language(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_numbers(tmp_path / name) == {"sw": 0.5, "en": 3.0, "zh": 20.0}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "[1]", "holds a list"),
        ("a.json", "{}", "holds no languages"),
        ("a.json", '{"sw": true}', "sw has True: a number of at least 0"),
        ("a.json", '{"sw": -1}', "sw has -1"),
        ("a.json", '{"sw": 1, "swh": 2}', "has sw twice, the second time as 'swh'"),
        ("a.csv", "sw 1\n", "has one column"),
        ("a.csv", "sw,1\nen,many\n", "en has 'many'"),
        ("a.csv", "sw,nan\nen,1\n", "sw has 'nan'"),
        ("a.csv", "sw,1\nen,inf\n", "en has 'inf'"),
        ("a.csv", "lang,share\nxx,1\n", "unknown language 'xx'"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LanguageError, match=message):
        read_numbers(tmp_path / name)


def test_vectors_of_the_languages_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("3 2\nswa 1 -0.5\neng 2e-1 0\nxxx a b\n")
    found = read_vectors(path, {"swa", "eng", "tha"})
    assert {code: vector.tolist() for code, vector in found.items()} == {"swa": [1.0, -0.5], "eng": [0.2, 0.0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "COUNT WIDTH"),
        ("swa 1 2\n", "COUNT WIDTH"),
        ("2 2\nswa 1 2\n", "promises 2 vectors and holds 1"),
        ("1 2\nswa 1 x\n", r"line 2 \(swa\)"),
        ("1 2\nswa 1 2 3\n", "not 2 finite numbers"),
        ("1 2\nswa 1 nan\n", "not 2 finite numbers"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "v.txt").write_text(content)
    with pytest.raises(LanguageError, match=message):
        read_vectors(tmp_path / "v.txt", {"swa"})


def test_a_file_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(LanguageError, match=r"nowhere.txt cannot be read"):
        read_vectors(tmp_path / "nowhere.txt", {"swa"})
