"""Worlds small enough to solve exactly. `python -m toy` lists them."""

NAMES = ("four_responses", "loss_shapes", "all_roads", "frontier", "noise", "displacement", "length", "cycles")
