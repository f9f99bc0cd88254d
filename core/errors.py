"""What a user is told: one sentence that says what was found, what was expected and what to do."""


class UserError(ValueError):
    """Input that can't be used as it is. Its message is shown to the user as it stands."""
