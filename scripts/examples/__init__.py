"""Complete example programs. Tests run each of them."""
