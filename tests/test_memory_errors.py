"""Running out of memory, with errors that are really raised, and what the message says of them."""

import errno
import os
import resource
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from ray import cloudpickle

from raysel.errors import IncompleteError, UserError
from raysel.memory_errors import (
    MemoryShortError,
    Shortage,
    available_bytes,
    is_out_of_memory,
    kernel_kills,
    shortage_of,
    told_shortage,
)
from tests.conftest import REPOSITORY

MUCH = 1 << 50
ON_GPU = (
    "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 3 has a total capacity of 139.72 GiB of which 12.25 GiB is "
    "free. Including non-PyTorch memory, this process has 127.00 GiB memory in use."
)
# As Ray 2.60 words it.
BY_RAY = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: 897b) was "
    "1.40GB used / 23.54GB limit (0.059398)\nOOM kill reason: Memory usage 1486704640B exceeded threshold of "
    "1263825536B (5.0% of 25276510208B limit)"
)


def torch_on_a_cpu() -> None:
    torch.empty(MUCH, dtype=torch.uint8)


def numpy_array() -> None:
    np.zeros(MUCH, dtype=np.uint8)


def arrow_buffer() -> None:
    pa.allocate_buffer(MUCH)


def python_bytes() -> None:
    bytearray(MUCH)


@pytest.mark.parametrize(
    ("fail", "asked"),
    [(torch_on_a_cpu, MUCH), (numpy_array, MUCH), (arrow_buffer, MUCH), (python_bytes, None)],
)
def test_a_refused_allocation_is_recognised_whoever_asked(fail: Any, asked: int | None) -> None:
    with pytest.raises(MemoryShortError) as raised, told_shortage(workers=2):
        fail()
    short = raised.value.shortage
    assert (short.asked, short.gpu, short.killed, short.workers) == (asked, None, False, 2)
    assert 0 < short.free <= short.total
    assert isinstance(raised.value, UserError)
    what = "tried to allocate 1125.9 TB" if asked else "an allocation failed"
    assert str(raised.value).startswith(f"out of memory: {what} on node {os.uname().nodename} (")


def test_what_torch_says_of_a_gpu_is_read() -> None:
    short = shortage_of(torch.OutOfMemoryError(ON_GPU))
    assert (short.asked, short.free, short.total) == (int(20.5 * 2**30), int(12.25 * 2**30), int(139.72 * 2**30))
    assert short.gpu == 3
    assert "tried to allocate 22.0 GB on GPU 3 of node" in short.told()
    assert "(13.2 GB free of 150.0 GB)" in short.told()


def test_a_sample_that_does_not_fit_alone_is_named_with_what_refused_it() -> None:
    try:
        try:
            raise torch.OutOfMemoryError(ON_GPU)
        except RuntimeError as error:
            raise MemoryError("a text of 9 tokens does not fit in the memory of cuda") from error
    except MemoryError as error:
        short = shortage_of(error)
    assert (short.gpu, short.asked) == (3, int(20.5 * 2**30))
    assert short.told().endswith(": a text of 9 tokens does not fit in the memory of cuda")


def test_what_ray_says_of_a_worker_that_it_killed_is_read() -> None:
    from ray.exceptions import OutOfMemoryError

    error = OutOfMemoryError(BY_RAY)
    assert is_out_of_memory(error)
    short = shortage_of(error)
    assert short == Shortage(None, 0, 1263825536, "10.0.0.7", killed=True)
    assert short.told() == ("out of memory: a worker on node 10.0.0.7 was killed for its memory (0 B free of 1.3 GB)")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape '[2, 3]' is invalid for input of size 7"),
        OSError(errno.ENOSPC, "No space left on device"),
        UserError("embedding: out of range"),
        IncompleteError("3 shards failed"),
        KeyError("memory"),
    ],
)
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised, told_shortage():
        raise error
    assert raised.value is error


def test_the_operating_system_and_cudas_libraries_are_understood() -> None:
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))


def test_it_crosses_processes_whole_with_stage_and_help() -> None:
    short = Shortage(5_000_000, 1_000_000, 9_000_000, "n1", said="a text", workers=3, batch=16)
    error = cloudpickle.loads(
        cloudpickle.dumps(MemoryShortError(short, stage="vectors", help="set embedding.workers=1"))
    )
    assert error.shortage == short
    assert str(error) == (
        "vectors: out of memory: tried to allocate 5.0 MB on node n1 (1.0 MB free of 9.0 MB): a text; "
        "set embedding.workers=1"
    )


LIMITED = """
import resource, sys
from raysel.memory_errors import available_bytes, MemoryShortError, told_shortage
import numpy, psutil
limit = psutil.Process().memory_info().vms + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
free = available_bytes()
assert (200 << 20) < free <= 256 << 20, free
numpy.zeros(100 << 20, numpy.uint8)
try:
    with told_shortage():
        numpy.zeros(400 << 20, numpy.uint8)
except MemoryShortError as short:
    assert short.shortage.asked == 400 << 20 and short.shortage.free <= 256 << 20, short.shortage
else:
    raise SystemExit("fitted")
"""


def test_what_is_available_heeds_the_limit_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_a_limit_it_is_what_the_machine_has() -> None:
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    assert available_bytes() > 0
    assert (kernel_kills() or 0) >= 0


MAIN = """
import sys
from raysel import cli
def fail():
    bytearray(1 << 50)
cli.app = fail
cli.main()
"""


def test_the_command_line_says_it_in_one_line_with_exit_code_2() -> None:
    done = subprocess.run([sys.executable, "-c", MAIN], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2
    assert done.stderr.startswith("raysel: out of memory: an allocation failed on node ")
    assert len(done.stderr.splitlines()) == 1
