"""What services that listen share: sockets, TLS, tokens, proxies. Of the standard library, whatever speaks HTTP."""
