"""The format is frozen: repositories of every format are kept here and must be read for ever."""
