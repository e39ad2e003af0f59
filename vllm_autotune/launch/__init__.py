"""One trial: start a server, watch it, prove it, stop it, and judge the result."""
