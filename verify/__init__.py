"""The verifier: judges any implementation of preference optimization against a frozen contract. `python -m verify --help`."""
