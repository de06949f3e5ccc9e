"""Methods that choose or change the examples that a student learns from."""
