"""From splits to a champion: training, evaluation, export, promotion."""
