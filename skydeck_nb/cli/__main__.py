"""``python -m skydeck_nb.cli``: the same as ``skydeck``."""

from skydeck_nb.cli import main

if __name__ == "__main__":
    main()
