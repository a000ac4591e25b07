"""The contract in JAX: pure functions differentiated by JAX itself, and `testee`, which answers for them.

    losses      level 1: losses on log-probabilities
    sequences   level 2: sequences, on-policy pieces, averages
    gpt         levels 3 and 4: a GPT-2, the loss of a batch, AdamW
    checks      what is legal, looked at before anything is traced
    models      weights and batches, checked; a step and a run

Written from the contract: nothing of minipref or gpt_tiny is imported. `make ports` makes its environment and judges it.
"""
