"""Training: episodes become a student that obeys, and is calibrated."""
