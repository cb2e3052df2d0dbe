"""The grid in the notebook: rows to what the browser needs, the wire, and the widget itself.

Importing this package imports no anywidget; ``skydeck_nb.widget.grid`` does.
"""
