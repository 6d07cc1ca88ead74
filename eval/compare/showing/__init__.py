"""What is known of a comparison as tables, charts and a page; nothing is measured here."""
