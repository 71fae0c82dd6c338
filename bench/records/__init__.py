"""What a cell is, what it leaves behind, on disk and in statistics."""
