"""What services that listen share, of the standard library alone: sockets, TLS, tokens, proxies, bodies, refusals."""
