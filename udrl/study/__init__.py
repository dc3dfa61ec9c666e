"""Studies: the same training under different conditions, side by side (``udrl study``).

cells      one condition each, in a process of its own, resumable; over processes or Ray
folders    copies of a run, whole or in part, that cells train in
figures    what a cell measures of its student, and how figures of several seeds become one
output     the table, the picture and the JSON of a study
methods    upside-down RL beside SFT, its best fifth, reward-weighted SFT, DPO and GRPO
multitask  one student for all tasks beside one for each
size       relevance, obedience and latency against parameters
lr_batch   learning rate and batch size: the grid; its cell, figures, picture and report in lr_batch_*
"""
