"""Where things lie: the checkout, and data beside it that tests use if present."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
