"""What a model is worth: metrics, plots, a report, and the comparison with the champion."""
