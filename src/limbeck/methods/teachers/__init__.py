"""Methods that make or change the teacher."""
