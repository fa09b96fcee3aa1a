"""One module a part of the page: each turns results into the context of its template."""
