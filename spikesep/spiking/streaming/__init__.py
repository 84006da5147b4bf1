"""Networks on signals that arrive bit by bit: each layer keeps the inputs that it still reads."""
