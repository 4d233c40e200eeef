"""Complete programs to copy from; each is run by CI."""
