"""The stability certificate: what a server must survive to be called stable."""
