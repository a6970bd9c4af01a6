"""From an archive to validated tables, one partition per batch."""
