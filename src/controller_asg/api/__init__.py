"""The doors: gRPC servicers, HTTP API, and the identity of whoever knocks."""
