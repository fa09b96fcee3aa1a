"""What goes into a paper: methods text, references, tables and figures as files."""
