"""Peak memory, as the operating system counts it."""

import platform
import subprocess
import sys

import pytest
import torch

from nesf.memory import PeakMemory, peak_memory


def test_memory_is_what_was_held_at_once_since_the_start():
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    if memory.before is None:
        pytest.skip("this system tells no peak that can be set back")
    block = torch.ones(25 * 2**20)  # 100 MiB
    del block
    _, extra = memory.read()
    assert 95 * 2**20 < extra < 140 * 2**20
    memory.start()
    _, extra = memory.read()
    assert extra < 20 * 2**20


def test_a_process_does_not_count_what_its_parent_held():
    block = torch.ones(75 * 2**20)  # 300 MiB
    here = peak_memory("cpu")
    if not here:
        pytest.skip("this system tells no peak")
    assert here > block.nbytes
    program = (
        "from nesf.memory import peak_memory; import torch; before = peak_memory('cpu'); "
        "torch.ones(75 * 2**20); print(before, peak_memory('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert 280 * 2**20 < after - before < 340 * 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_kept_memory_is_not_mapped_again():
    """Page faults of 40 times six tensors of 8 MiB, 2,048 pages each."""
    program = (
        "import resource, torch; from nesf.memory import keep_freed_memory\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def use(): [torch.ones(2**21) for _ in range(6)]\n"
        "kept = keep_freed_memory(); use(); before = faults()\n"
        "for _ in range(40): use()\n"
        "print(int(kept), faults() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    kept, faults = map(int, done.stdout.split())
    assert kept
    assert faults < 40 * 6 * 2048 / 20
