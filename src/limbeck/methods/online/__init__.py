"""Methods that train teacher and student at the same time."""
