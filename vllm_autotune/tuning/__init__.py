"""The walk from a request to a report: recall or search, record, resume, check again."""
