"""The model in use: its service, and the log of what it saw and said."""
