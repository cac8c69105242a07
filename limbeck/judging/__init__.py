"""Judging a student: answers of every system on gold, the served bundle, the gate and its evidence, comparisons."""
