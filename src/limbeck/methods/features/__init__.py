"""Methods that match hidden states of the teacher."""
