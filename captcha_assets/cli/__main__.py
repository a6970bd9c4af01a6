"""`python -m captcha_assets.cli`."""

from captcha_assets.cli import main

main()
