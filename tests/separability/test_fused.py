"""The fused kernel, run by Triton's interpreter on the CPU, against the plain tiles."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECK = """
import numpy as np, torch
from raysel.separability import distance_sums, fused
from raysel.separability.blocks import make_block, moments, origin_of

def check(rows, clusters, precision, duplicates):
    rng = np.random.default_rng(rows)
    cells = np.sort(rng.integers(clusters, size=rows))
    X = torch.from_numpy((rng.normal(size=(clusters, 24))[cells] + rng.normal(size=(rows, 24))).astype(np.float32))
    X[:duplicates] = X[rows - duplicates : rows]
    block = make_block(X, np.arange(rows), cells, origin_of(moments(X), rows), precision=precision, tile=rows)
    half = rows // 2
    whole, top, bottom = slice(0, rows), slice(0, half), slice(half, rows)
    for r, c, same in ((whole, whole, True), (top, bottom, False)):
        def measure(a, b, same=same):
            measured.append(a)
            return distance_sums._squared(block, block, a, b, same=same and a == b).sqrt_()
        measured = []
        found = fused.tile_sums(block, block, r, c, product=distance_sums._product, measure=measure, same=same)
        assert found is not None
        assert (len(measured) > 0) == (duplicates > 0), (len(measured), duplicates)
        plain = distance_sums._squared(block, block, r, c, same=same).sqrt_().double()
        one_hot = lambda part: torch.nn.functional.one_hot((block.codes[part] - block.codes[part][0]).long()).double()
        torch.testing.assert_close(found[0], plain @ one_hot(c), rtol=2e-6, atol=1e-6)
        if same:
            assert found[1] is None
        else:
            torch.testing.assert_close(found[1], plain.T @ one_hot(r), rtol=2e-6, atol=1e-6)

for rows, clusters, precision, duplicates in (
    (300, 3, "float32", 0), (300, 3, "float32", 3), (257, 5, "tf32x3", 0), (256, 1, "float32", 0),
    (390, 9, "tf32x3", 2),
):
    check(rows, clusters, precision, duplicates)
X = torch.randn(300, 4)
many = make_block(X, np.arange(300), np.arange(300), origin_of(moments(X), 300), tile=300)
assert fused.tile_sums(many, many, slice(0, 300), slice(0, 300), product=None, measure=None, same=True) is None
"""
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


@needs_triton
def test_the_kernel_gives_the_sums_of_the_plain_tiles() -> None:
    done = run(CHECK, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


@needs_triton
def test_the_kernel_compiles_for_a_card_that_is_not_here(tmp_path: Path) -> None:
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from raysel.separability.fused import PART, sum_part
pointers = {"product": "*fp32", "norm_x": "*fp32", "norm_y": "*fp32", "cell_x": "*i32", "cell_y": "*i32",
            "by_row": "*fp32", "by_column": "*fp32", "near_pairs": "*i32", "rows": "i32", "columns": "i32",
            "near": "fp32"}
for same in (True, False):
    constants = {"SAME": same, "CELLS": 3, "PART": PART}
    signature = {**pointers, **dict.fromkeys(constants, "constexpr")}
    made = triton.compile(ASTSource(sum_part, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"]
"""
    done = run(code, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
