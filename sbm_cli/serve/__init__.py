"""A server: a page to drop recordings on, files over HTTP, and streams over a web socket."""
