"""What stands behind a teacher card: one file or package a backend."""
