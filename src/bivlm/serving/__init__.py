"""Answers that are told while they are made: to many clients of a server, whose requests are answered
together, or to one person at a terminal (alone.py).
"""
