"""Numba kernels: row functions first, then loops over rows.

They take arrays of exact types, check nothing, know no option objects and reduce nothing beyond
the sums of the rows they were given. A sum over rows belongs here because storing one number per
row to add it up later would cost short rows as much as the scores themselves.
"""
