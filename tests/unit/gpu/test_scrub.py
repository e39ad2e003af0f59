"""What is kept of a GPU machine's logs."""

from tests.gpu.scrub import scrubbed, trimmed


def test_a_kept_log_has_no_paths_and_no_progress_bars() -> None:
    text = "".join(
        (
            "INFO /data/x/models/shape/qwen2.5-7b /opt/site/vllm/a.py 10.1.2.3\n",
            "Capturing:   0%\rCapturing:  50%\rCapturing: 100%\n",
            *(f"line {n}\n" for n in range(1000)),
        )
    )
    kept = scrubbed(trimmed(text), "/data/x/models")

    assert "INFO /models/qwen2.5-7b /site-packages/vllm/a.py 10.0.0.1" in kept
    assert "Capturing:   0%\rCapturing: 100%" in kept
    assert "50%" not in kept
    assert kept.count("\n") < 450
    assert "line 999\n" in kept
