"""The training episodes that matter: a probe, its measure, and the choice that is kept."""
