"""`raysel languages`: run as a user does."""

import subprocess
import sys
from pathlib import Path

import pytest

from raysel.languages.published import PUBLISHED


def raysel(cwd: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "raysel.cli", "languages", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def lines_of(done: subprocess.CompletedProcess) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [line.rstrip() for line in done.stdout.splitlines()]


def test_a_subset_is_printed_with_its_clusters_and_drawn(tmp_path: Path) -> None:
    lines = lines_of(raysel(tmp_path, "--strategy", "geo", "-k", 14, "--seed", 66))
    assert lines[0] == "geo, seed 66: 14 of 52 languages"
    assert lines[1].split() == ["code", "language", "family", "script", "cluster"]
    published = PUBLISHED["geo"][66].split()
    assert [line.split()[0] for line in lines[2:16]] == published
    assert lines[2].split() == ["af", "Afrikaans", "Indo-European", "Latn", "af", "xh"]
    assert sorted(" ".join(line.split("  ")[-1] for line in lines[2:16]).split())[:4] == ["af", "ar", "az", "bn"]
    assert lines[16] == ",".join(published)
    assert lines[17] == "figure: languages.svg"
    drawn = (tmp_path / "languages.svg").read_text(encoding="utf-8")
    assert drawn.count("<svg") == 1
    assert all(f">{lang}</text>" in drawn for lang in ("af", "xh", "zh"))


def test_files_weights_and_what_has_no_features(tmp_path: Path) -> None:
    (tmp_path / "langs.txt").write_text("Swahili\nEnglish\nMoroccan Arabic\nThai\nzho_Hans\n\n")
    given = "--strategy mixed -k 2 --candidates langs.txt --weights syntax=1,learned=0.5 --leave-out --figure new/f.png"
    lines = lines_of(raysel(tmp_path, *given.split()))
    assert lines[:2] == ["mixed, seed 0: 2 of 3 languages", "left out, without features: en, sw"]
    assert lines[-1] == "figure: new/f.png"
    assert (tmp_path / "new" / "f.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "rows.json").write_text('{"sw": 10, "th": 30, "en": 20}')
    given = "--strategy resource -k 2 --candidates sw,th,en --rows rows.json --cover most"
    lines = lines_of(raysel(tmp_path, *given.split()))
    assert lines[0] == "option without effect: --cover: the strategy is resource"
    assert lines[-2] == "en,th"
    assert "cluster" not in lines[2]


def test_leaving_out_each_feature_group(tmp_path: Path) -> None:
    lines = lines_of(raysel(tmp_path, "--strategy", "typo", "-k", 14, "--seed", 66, "--ablation"))
    assert lines[0] == f"typo, k 14, seed 66: {PUBLISHED['typo'][66]}"
    text = "\n".join(lines)
    for group in ("syntax", "phonology", "inventory"):
        assert f"\n{group} " in text
    matrix = [line.split() for line in lines[lines.index("Jaccard of the subsets, all against all") + 2 :]]
    assert [row[0] for row in matrix] == ["nothing", "syntax", "phonology", "inventory"]
    shares = [[float(cell) for cell in row[1:]] for row in matrix]
    assert [shares[i][i] for i in range(4)] == [1.0] * 4
    assert shares == [list(column) for column in zip(*shares, strict=True)]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strategy", "geo", "-k", 14, "--published"), "no list was published for strategy geo, k 14, seed 0"),
        (("--strategy", "nearest", "-k", 2), "there is no strategy 'nearest'"),
        (("--strategy", "mixed", "-k", 2, "--weights", "syntax:1"), "write it as syntax=1,geo=0.5"),
        (("--strategy", "geo", "-k", 1, "--candidates", " , "), "holds no languages"),
        (("--strategy", "geo", "-k", 1, "--candidates", "sw,xx"), "unknown language 'xx'"),
        (("--strategy", "geo", "-k", 1, "--figure", "f.nothing"), "--figure f.nothing cannot be written"),
        (("--strategy", "learn", "-k", 1, "--candidates", "en,fr,de"), "--leave-out"),
    ],
)
def test_what_a_user_gets_wrong_is_one_clear_message(tmp_path: Path, arguments: tuple, message: str) -> None:
    done = raysel(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
