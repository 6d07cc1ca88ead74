"""Peak memory, as the operating system counts it."""

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


def test_kept_memory_is_not_mapped_again():
    """Page faults of 40 tensors of 16 MiB, one after another, 4,096 pages each."""
    program = (
        "import resource, sys, torch; from nesf.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'kept': keep_freed_memory()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.ones(2**22), torch.ones(2**22)\n"
        "before = faults()\n"
        "for _ in range(40): a = torch.ones(2**22); b = torch.ones(2**22); del a, b\n"
        "print(faults() - before)"
    )
    kept, plain = (
        int(subprocess.run([sys.executable, "-c", program, how], capture_output=True).stdout)
        for how in ("kept", "plain")
    )
    if plain < 40 * 4096:
        pytest.skip("this C library keeps freed memory by itself")
    assert kept < plain / 10
