"""Exports: a student in the format of another engine, verified before it is used."""
