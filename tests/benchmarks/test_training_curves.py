"""Curves, pictures and figures of a run's folder."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from training_curves import main


def test_a_run_becomes_a_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "pictures").mkdir(parents=True)
    entries = [
        {"step": s, "learning_rate": 1e-4, "l1": 9.0 / (s + 1), "colour_error": 80.0 / (s + 1)}
        for s in range(0, 70, 10)
    ]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n")
    for step in range(0, 70, 10):
        for name in ("a-b", "other"):
            picture = np.full((8, 24, 3), step, np.uint8)
            cv2.imwrite(str(run / "pictures" / f"step-{step:09}-{name}.jpg"), picture)
    record = {
        "settings": {
            "data": {"layout": "streets"},
            "optimizer": {"batch": 2},
            "compute": {"precision": "bfloat16"},
        },
        "samples": 9,
        "trained_on": 7,
        "parameters": {"generator": 1_500_000},
        "perceptual_loss": "off: loss.perceptual is 0",
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
    }
    (run / "run.json").write_text(json.dumps(record))
    assert main(run, out=tmp_path / "out", name="small") == 0
    (page,) = (tmp_path / "out").glob("small-*.md")
    text = page.read_text()
    assert "60 steps of 2 on 7 samples (streets), 2 held out" in text
    assert "generator 1.50 M" in text
    assert "| 0 | 80.0 |" in text
    assert "after 0, 20, 30, 40, 60 steps" in text
    stacked = cv2.imread(str(page.with_suffix(".jpg")))
    assert stacked.shape == (5 * 8, 24, 3)
    assert np.abs(stacked[::8, 0, 0].astype(int) - [0, 20, 30, 40, 60]).max() <= 3
    assert cv2.imread(str(page.with_suffix(".png"))).std() > 5
