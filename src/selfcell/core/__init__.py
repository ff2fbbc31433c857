"""What every folder may use, and which uses none of them."""
