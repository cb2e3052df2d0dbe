"""The embedded backend: jobs as detached processes of this host, each under its own small supervisor.

``backend`` speaks the contract of :mod:`skydeck_nb.backends.base`; ``records``
reads a job's folder; ``resources`` and ``environment`` say what this host has
and what a command is given. ``spool``, ``queue``, ``supervisor``, ``processes``
and ``locks`` import nothing but the standard library and each other: a
supervisor runs them without the package (see ``__main__``).
"""

from skydeck_nb.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]
