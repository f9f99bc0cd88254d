"""Everything that measures: `python -m conceptlens.evaluation QUESTION`."""
