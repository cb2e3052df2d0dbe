"""What `make bench` measures: counts exactly, times as ratios within one run.

One module a benchmark; each has ``run(quick=…)``, which returns a frozen
dataclass of named figures and prints nothing. ``__main__`` runs them and
``report`` shows them. No figure here is an estimate, and none is copied from
another run, but for those of the original SkyDeck in ``original``.
"""
