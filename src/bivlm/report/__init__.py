"""What people read: tables, the model card, and the account of every bit."""
