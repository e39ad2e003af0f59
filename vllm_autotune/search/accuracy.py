"""What a launch was predicted to take against what it took."""

from dataclasses import dataclass

from ..memory import Calibration, Interval, Measurement
from ..outcome import Environment
from .facts import Attempt, Facts, Prediction, expect, learned


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """One quantity in bytes: what was predicted before the launch, and what was measured."""

    predicted: Interval
    measured: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Predicted against measured bytes of one device; None where vLLM printed too little.

    `overhead` is what vLLM set aside beside weights and KV cache.
    """

    weights: Against | None = None
    kv_available: Against | None = None
    overhead: Against | None = None
    graphs: Against | None = None


def accuracy(facts: Facts, attempt: Attempt) -> Accuracy | None:
    """Return how right the prediction of a launch was, None where it printed no numbers."""
    measured = measurement(facts, attempt)
    if measured is None:
        return None
    predicted: Prediction = attempt.candidate.predicted
    (boot,) = learned(facts, Calibration(), attempt).boots
    # Without weights in the log their estimate stands in, and proves nothing.
    weighed = attempt.readings.weights_bytes is not None

    def against(interval: Interval, number: float | None) -> Against | None:
        return None if number is None else Against(predicted=interval, measured=number)

    return Accuracy(
        weights=against(predicted.weights, measured.weights if weighed else None),
        kv_available=against(predicted.kv_available, boot.kv_bytes),
        overhead=against(predicted.overhead, measured.overhead if weighed else None),
        graphs=against(predicted.graphs, measured.graphs),
    )


def measurement(facts: Facts, attempt: Attempt) -> Measurement | None:
    """Return what a launch measured, for later walks; None where it printed no numbers."""
    config, printed = attempt.candidate.config, attempt.readings
    if isinstance(attempt.outcome, Environment):
        return None  # something else was on the device
    (boot,) = learned(facts, Calibration(), attempt).boots
    if boot.weights is None and boot.overhead is None and boot.graphs is None:
        return None
    cold = expect(facts, Calibration(), config)
    checkpoint = facts.checkpoints[config.model]
    return Measurement(
        model=checkpoint.digest,
        architecture=checkpoint.architecture,
        args=dict(config.args),
        env=dict(config.env),
        weights=boot.weights,
        overhead=boot.overhead,
        activations=printed.activation_bytes,
        non_torch=printed.non_torch_bytes,
        graphs=boot.graphs,
        expected_activations=cold.activations.middle,
        expected_graphs=cold.graphs.middle,
    )
