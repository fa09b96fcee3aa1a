"""What a picture is made of: contours, checkerboards, hidden faces."""
