"""Tables, comparisons and plots of records, and the published numbers beside them. Knows no engine."""
