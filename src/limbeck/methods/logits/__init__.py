"""Methods that match the logits of the teacher."""
