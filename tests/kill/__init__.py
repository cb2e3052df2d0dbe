"""Real kernels on one database, killed with ``kill -9``, frozen and closed while they lead."""
