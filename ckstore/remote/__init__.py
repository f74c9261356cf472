"""Remotes: places that hold packs, segments and one root object, behind one interface.

`interface` says what a place must do; `memory`, `directory` and `s3` are such places, `connect` makes one of a URL.
`retry`, `throttle` and `counting` each wrap any remote, `probe` finds out what one can promise.
"""
