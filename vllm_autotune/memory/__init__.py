"""How many bytes a launch needs on each device: intervals, wide where little is known.

The high end of an interval proves that something fits, the low end that it cannot.
"""

from .boot import Boot
from .calibration import Calibration
from .footprint import Footprint, estimate
from .interval import Interval
from .setup import Setup, Stage, batch_defaults, even_stages
from .weights import weight_bytes

__all__ = [
    "Boot",
    "Calibration",
    "Footprint",
    "Interval",
    "Setup",
    "Stage",
    "batch_defaults",
    "estimate",
    "even_stages",
    "weight_bytes",
]
