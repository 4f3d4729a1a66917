"""How well every scorer finds the knowledge that conflicts, in worlds where that is known.

`measure.py` trains reference runs and scores; `rows.py` is what is kept of it; `summary.py` makes tables of that.
"""
