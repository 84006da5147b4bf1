"""What all tasks share: pre-training, conversion, their records and their resumption."""
