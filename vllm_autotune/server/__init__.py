"""A vLLM server as a process tree: start, watch, stop, prove it is gone.

The only package that knows subprocess and psutil. vLLM's API server starts an engine process,
which starts workers; killing the first leaves the others holding the device. So every server
gets its own session and a marker in its environment that all its descendants inherit, and
stopping it ends with a search for that marker. A guardian process does the same if we die.
"""
