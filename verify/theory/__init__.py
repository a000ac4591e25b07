"""Claims about the mathematics: proved symbolically, or measured exactly on finite worlds; and the errata.

`python -m verify.theory` writes the documents that are generated from them.
"""
