"""Names against entries: pure, flat in cost, importing nothing of ours."""
