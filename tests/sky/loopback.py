"""What the SkyPilot server of the tests loads into itself, by its own plugin loader, to live without an internet.

Decides one constant of it, in the server and in each jobs controller. Refuses
to change anything else: what the tests see is SkyPilot as it is released.
"""

from __future__ import annotations

from sky.server import plugins


class Loopback(plugins.BasePlugin):  # type: ignore[misc]
    def __init__(self, probe: str) -> None:
        self._probe = probe

    def install(self, extension_context: plugins.ExtensionContext) -> None:
        from sky.backends import backend_utils

        # It dials two well-known hosts before it believes any job's status; unanswered, a job stays RUNNING for ever.
        backend_utils._TEST_IP_LIST = [self._probe]
