"""Give a model to others: its card, and the way to the Hugging Face Hub."""
