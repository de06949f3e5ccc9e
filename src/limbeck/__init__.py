"""limbeck: knowledge distillation that is right, paid once, and judged."""
