"""Names around runtime environments."""
