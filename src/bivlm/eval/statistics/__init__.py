"""What an evaluation's numbers are worth: intervals, robust means, paired tests, spread over calibration
draws.
"""
