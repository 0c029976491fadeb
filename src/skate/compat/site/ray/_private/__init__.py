"""Private names of Ray that popular libraries use. They are answered here and nowhere else in Skate."""
