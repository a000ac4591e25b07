"""Ports: the operations written again from the contract, in other libraries and languages, and judged like anybody's."""
