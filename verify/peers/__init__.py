"""Adapters that put published libraries behind the judge, each run in an environment of its own."""
