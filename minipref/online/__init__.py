"""Pieces of the methods that sample from the policy while they train it, and the sampling itself.

Log-probabilities are in nats, one per token; where a mask is false nothing counts and per-token answers are 0. Losses are per
token and summed or averaged only by the three operations of `aggregation`, each of which says over what.
"""
