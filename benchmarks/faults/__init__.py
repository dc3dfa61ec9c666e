"""The parts of `reliability.py`: a module each, with ``run(folder, *, scale, seed)`` that returns its figures.

folder: where a part keeps what it has done, so that it goes on after an interruption. scale: the share of its full
number of trials. The figures are plain values for JSON: how many trials, and how many of them went wrong in which way.
"""
