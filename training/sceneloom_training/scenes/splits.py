"""Which streets are trained on and which are tested on, fixed before anything was trained.

The seeds of the test streets are so far from the others that no training set reaches them.
"""

from __future__ import annotations

TRAIN_SEEDS = range(1500)
"""Streets that networks and segmenters of the method's table are trained on."""
DEMO_SEEDS = TRAIN_SEEDS[:240]
"""Streets that the demo's weights are trained on at 2048x1024."""
TEST_SEEDS = range(1_000_000, 1_000_200)
"""Streets that they are tested on; nothing is ever trained on or chosen by them."""
