"""Client programs, unchanged, against this server: `make test-clients`."""
