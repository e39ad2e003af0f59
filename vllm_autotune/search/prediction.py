"""What the arithmetic expects of a configuration, corrected by what trials measured."""

from collections.abc import Sequence
from dataclasses import replace

from ..memory import Boot, Calibration, Interval, Setup
from ..outcome import Environment, OutOfMemory, Readings
from ..vllm.config import LaunchConfig
from .facts import Facts
from .trial import Accuracy, Compared, Prediction, Trial

# From one start to the next of the same server: 7 MiB of 1.4 GiB on an H200, 10 MiB of 0.67 GiB
# on a CPU in seven boots.
VARIES = {"cuda": 0.01, "cpu": 0.02}


def predict(facts: Facts, calibration: Calibration, config: LaunchConfig) -> Prediction:
    """Return what is expected of each device, or of all where they differ."""
    setups = facts.setups(config)
    if len(setups) == 1:
        return _predicted(facts, calibration, setups[0], facts.reserved(config))
    stages = tuple(
        _predicted(facts, calibration, setup, facts.reserved_by(setup.device, config))
        for setup in setups
    )
    return replace(stages[setups.index(facts.setup(config))], stages=stages)


def _predicted(facts: Facts, calibration: Calibration, setup: Setup, reserved: int) -> Prediction:
    expected, config = calibration.footprint(setup), setup.config
    return Prediction(
        reserved_bytes=reserved,
        weights=expected.weights,
        kv_needed=expected.kv_needed(facts.length(config), facts.workload.concurrency),
        kv_available=expected.kv_available(reserved),
        overhead=expected.beside,
        graphs=expected.graphs,
        layers=setup.stage.layers if setup.stage else None,
    )


def calibrate(facts: Facts, history: Sequence[Trial] = ()) -> Calibration:
    return Calibration(
        boots=tuple(_boot(facts, trial) for trial in history if not trial.predicted.stages),
        earlier=facts.boots,
        varies=VARIES[facts.devices[0].kind],
    )


def measured(facts: Facts, trial: Trial) -> Boot | None:
    """Return the boot that a trial measured, None where it printed no numbers, or was disturbed.

    What devices that differ print cannot be told apart.
    """
    if isinstance(trial.outcome, Environment) or trial.predicted.stages:
        return None  # something else was on the device
    boot = _boot(facts, trial)
    return None if (boot.weights, boot.overhead, boot.graphs) == (None, None, None) else boot


def accuracy(facts: Facts, trial: Trial) -> Accuracy | None:
    """Return the prediction of a trial against its boot, None where it measured nothing."""
    boot, predicted = measured(facts, trial), trial.predicted
    if boot is None:
        return None
    # Without weights in the log their estimate stands in, and proves nothing.
    weighed = trial.readings.weights_bytes is not None

    def compared(interval: Interval, number: float | None) -> Compared | None:
        return None if number is None else Compared(predicted=interval, measured=number)

    return Accuracy(
        weights=compared(predicted.weights, boot.weights if weighed else None),
        kv_available=compared(predicted.kv_available, boot.kv_bytes),
        overhead=compared(predicted.overhead, boot.overhead if weighed else None),
        graphs=compared(predicted.graphs, boot.graphs),
    )


def _boot(facts: Facts, trial: Trial) -> Boot:
    outcome, readings, config = trial.outcome, trial.readings, trial.config
    limit = outcome.limit if isinstance(outcome, OutOfMemory) else None
    length = limit or readings.max_model_len or facts.length(config)
    reserved = _reserved(facts, trial.predicted, readings)
    # A length that vLLM cut fits one sequence, and no block more.
    usual, served = facts.checkpoints[config.model].default_context, readings.max_model_len
    cut = config.is_auto_length and served is not None and served < usual
    exactly = bool(limit) or cut
    return Boot.of(facts.setup(config), readings, reserved, length, exactly=exactly)


def _reserved(facts: Facts, predicted: Prediction, readings: Readings) -> int:
    """Return the bytes vLLM had on each device in an earlier launch.

    On a GPU that is what we computed for it: the driver's total is 0.4 % above the one that
    vLLM sees (H200), and the same error in both makes it cancel out. A CPU's total is one
    number, but may have grown since.
    """
    total, share = readings.total_bytes, readings.utilization
    if facts.devices[0].kind == "cpu" and total and share:
        return int(total * share)
    return predicted.reserved_bytes
