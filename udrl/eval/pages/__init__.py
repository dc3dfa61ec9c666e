"""The HTML pages: each module computes plain values for its template in ``templates``, which escapes every text."""
