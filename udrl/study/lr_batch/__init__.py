"""``udrl study lr-batch``: how learning rate and batch size decide what a student learns."""
