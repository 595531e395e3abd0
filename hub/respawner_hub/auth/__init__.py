"""Who may log in: local accounts by default, or the team's own identity provider."""
