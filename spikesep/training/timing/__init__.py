"""Time budgets, and progress."""
