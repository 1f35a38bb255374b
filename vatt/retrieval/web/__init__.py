"""Parts of the search page: request filter, routes, media files of the index, uploads."""
