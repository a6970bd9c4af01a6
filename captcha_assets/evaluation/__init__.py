"""What a model is worth: metrics, pictures, a report, and the comparison with the champion."""
