"""How many bytes a launch needs on each device: intervals, wide where little is known.

The high end of an interval proves that something fits, the low end that it cannot.
"""

from .calibration import ROUNDING, Calibration
from .estimate import block_size, footprint
from .footprint import Footprint
from .interval import Interval
from .kv import Cache
from .overhead import batch_defaults
from .pool import Measurement, Pool

__all__ = [
    "ROUNDING",
    "Cache",
    "Calibration",
    "Footprint",
    "Interval",
    "Measurement",
    "Pool",
    "batch_defaults",
    "block_size",
    "footprint",
]
