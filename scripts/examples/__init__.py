"""Complete programs to copy from. CI runs each of them."""
