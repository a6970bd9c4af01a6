"""From an archive to judged tables, one partition per delivery."""
