"""Comparisons: encoders and baselines on the same cells, with statistics over seeds and donors."""
