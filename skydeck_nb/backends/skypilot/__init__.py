"""SkyPilot as a backend; importing this imports neither SkyPilot nor httpx."""

from __future__ import annotations

from skydeck_nb.backends.skypilot.backend import SkyPilotBackend

__all__ = ["SkyPilotBackend"]
