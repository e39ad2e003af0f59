"""Where tests find what they read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SHAPES = ROOT / "tests" / "support" / "shapes"
EXAMPLES = ROOT / "results" / "examples"
