"""What a repository and a remote do with each other: push, fetch, and gc of a remote.

`local` is what they ask of the repository, `survey` what a remote is found to hold. Nothing here knows what kind of
place a remote is.
"""
