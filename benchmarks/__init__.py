"""What the performance table in the README is made from: `python run.py bench`."""
