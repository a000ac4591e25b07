"""Where the suite proves that it can fail.

The museum keeps real bugs as patches of the specification, `mutants` makes every small change of it, `trials` are what both are
judged on: `python -m verify selftest`. The catalogue says of every bug of a survey what catches it.
"""
