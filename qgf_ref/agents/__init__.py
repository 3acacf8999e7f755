"""What is trained and how it acts."""
