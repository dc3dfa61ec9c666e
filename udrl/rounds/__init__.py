"""Rounds of improvement: explore with commands, score, relabel, train on.

Upside-down RL's second half (1912.02877): commands are drawn from the best episodes, what the student achieves
under them becomes episodes, and it learns from those as from any others.

options     what decides a round       exploring   commands beyond the usual, what is written under them
selecting   what is kept out, and why  pool        what the student learns from, bounded
building    its episodes               inputs      what is explored on
measuring   how good a student is      records     the files of a round, the verdict on it, the table
making      one round, step by step    improving   the loop; what is kept
"""
