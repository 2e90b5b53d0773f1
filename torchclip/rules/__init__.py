"""Update rules: what describes one, the table of them, and what their numbers may be. Looks at no other wing."""
