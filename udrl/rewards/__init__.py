"""Rewards: named functions (input, completion) -> number, and what labels the ledger with them."""
