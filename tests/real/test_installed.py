"""What we know of vLLM by heart, against the files of the one that is installed."""

import pytest

from vllm_autotune.vllm.capability import MINIMUM, SEVERAL, least_for_method
from vllm_autotune.vllm.installation import locate

pytestmark = pytest.mark.real


def test_the_table_of_least_capabilities_says_what_vllms_own_files_say(vllm_python: str) -> None:
    engine = locate(vllm_python)
    files = {name: engine.least_capability(name) for name in engine.quantizations - SEVERAL}
    known = {name: own for name, own in files.items() if own and name in MINIMUM}
    assert len(known) >= 8
    by_file = {name: least_for_method(name, engine.release, own) for name, own in known.items()}
    assert {name: least_for_method(name, engine.release, None) for name in known} == by_file


def test_the_installed_vllm_is_read_as_far_as_we_use_it(vllm_python: str) -> None:
    engine = locate(vllm_python)
    assert engine.release >= (0, 9)
    assert all(engine.knows(flag) for flag in ("max-model-len", "max-num-seqs", "kv-cache-dtype"))
    assert not engine.knows("no-such-flag")
    assert {"auto", "fp8"} <= engine.kv_cache_dtypes
    assert 0.5 < engine.default_utilization < 1
