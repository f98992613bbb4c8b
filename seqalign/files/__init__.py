"""What people bring and take: structures, sequences, tables, pictures."""
