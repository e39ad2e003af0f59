"""What a person sees: the only package that knows rich. Talk goes to stderr, results to stdout."""
