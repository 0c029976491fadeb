"""What every engine and the API above them share."""
