"""Time budgets and progress displays."""
