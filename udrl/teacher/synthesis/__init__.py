"""Synthesis: inputs to teachers, their responses into the ledger, the ledger into scored episodes."""
