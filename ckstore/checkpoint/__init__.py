"""What several verbs do: drafts stored as a commit, a commit's files written and compared."""
