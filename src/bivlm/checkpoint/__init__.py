"""Hugging Face folders: reading one tensor by tensor, writing one block by block, checking one byte by
byte.
"""
