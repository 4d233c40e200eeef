"""Commands of a checkout: benchmarks, fault injection, conformance, examples, and thin files for the commands."""
