"""``python -m skydeck_nb.background``: what :func:`skydeck_nb.background.start` runs."""

import sys

from skydeck_nb.background.process import main

sys.exit(main())
