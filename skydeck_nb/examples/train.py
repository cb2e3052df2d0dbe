"""A small real training: a network of one hidden layer learns a spiral, on numpy alone.

Takes ``key=value`` as Hydra does, appends readings to
``$SKYDECK_RUN_DIR/metrics.jsonl`` and keeps checkpoints in
``$SKYDECK_CHECKPOINT_DIR``. Needs no deck: ``python train.py lr=0.1 epochs=5``.
Knows nothing of who runs it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

DEFAULTS: dict[str, Any] = {"lr": 0.1, "width": 32, "epochs": 30, "seconds": 8.0, "seed": 0, "noise": 0.3}
POINTS = 600
STEPS = 6


def settings(arguments: list[str]) -> dict[str, Any]:
    """``lr=0.1 width=8`` over the defaults, each of its default's type."""
    chosen = dict(DEFAULTS)
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if key not in DEFAULTS or not equals:
            raise SystemExit(f"{argument!r} is none of {' '.join(f'{name}=…' for name in DEFAULTS)}")
        chosen[key] = type(DEFAULTS[key])(float(text))
    return chosen


def spiral(rng: np.random.Generator, noise: float) -> tuple[Any, Any]:
    """Two arms that wind around each other, and which arm each point is of."""
    turn = rng.uniform(0.3, 2.0, POINTS) * math.pi
    arm = rng.integers(0, 2, POINTS)
    angle = turn + arm * math.pi
    points = np.stack([turn * np.cos(angle), turn * np.sin(angle)], axis=1) / math.pi
    return points + rng.normal(0, noise / 2, points.shape), arm.astype(float)


def main(arguments: list[str]) -> None:
    chosen = settings(arguments)
    rng = np.random.default_rng(int(chosen["seed"]))
    x, y = spiral(rng, chosen["noise"])
    width, lr = int(chosen["width"]), float(chosen["lr"])
    w1, b1 = rng.normal(0, 2.0, (2, width)), rng.normal(0, 1.0, width)
    w2, b2 = rng.normal(0, 1 / math.sqrt(width), width), 0.0
    runs = Path(os.environ.get("SKYDECK_RUN_DIR", "."))
    checkpoints = Path(os.environ.get("SKYDECK_CHECKPOINT_DIR", runs / "checkpoints"))
    checkpoints.mkdir(parents=True, exist_ok=True)
    pause = chosen["seconds"] / max(int(chosen["epochs"]), 1)
    for epoch in range(1, int(chosen["epochs"]) + 1):
        began = time.monotonic()
        guess = y
        for _ in range(STEPS):
            hidden = np.tanh(x @ w1 + b1)
            guess = 1 / (1 + np.exp(-np.clip(hidden @ w2 + b2, -60, 60)))
            slope = (guess - y) / POINTS
            back = np.outer(slope, w2) * (1 - hidden**2)
            w2 -= 10 * lr * hidden.T @ slope
            b2 -= 10 * lr * float(slope.sum())
            w1 -= 10 * lr * x.T @ back
            b1 -= 10 * lr * back.sum(axis=0)
        safe = np.clip(guess, 1e-9, 1 - 1e-9)
        loss = float(-np.mean(y * np.log(safe) + (1 - y) * np.log(1 - safe)))
        accuracy = float(np.mean((guess > 0.5) == (y > 0.5)))
        with (runs / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": epoch, "loss": round(loss, 6), "train_accuracy": round(accuracy, 4)}) + "\n")
        print(f"epoch {epoch:3d}  loss {loss:.4f}  accuracy {accuracy:.3f}", flush=True)  # noqa: T201
        if epoch % 10 == 0:
            partial = checkpoints / f".checkpoint_{epoch}.npz.tmp"
            with partial.open("wb") as out:
                np.savez(out, w1=w1, b1=b1, w2=w2, b2=b2)
            partial.rename(checkpoints / f"checkpoint_{epoch}.npz")
        time.sleep(max(0.0, pause - (time.monotonic() - began)))


if __name__ == "__main__":
    main(sys.argv[1:])
