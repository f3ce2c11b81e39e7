"""What reports are made of: tables for people, figures as files, and one page that opens offline."""
