"""Results and how they are shown: table, JSON, CSV, Markdown; and gates on them."""
