"""Rounds of improvement: explore with commands, score, relabel, train on.

Upside-down RL's second half (1912.02877): commands are drawn from the best episodes, what the student achieves
under them becomes episodes, and it learns from those as from any others.

options     what decides a round          exploration  commands beyond the usual, what is written under them
rejections  what is kept out, and why     pool         what the student learns from, bounded
episodes    those of a round              inputs       what is explored on
quality     how good a student is         history      the files of a round, the verdict on it, the table
round       one round, step by step       improve      the loop; what is kept
"""
