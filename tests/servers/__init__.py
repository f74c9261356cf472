"""Servers for the tests of remotes, all on 127.0.0.1: processes of their own, started and stopped by `running`."""
