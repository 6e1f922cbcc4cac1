"""A proxy that speaks TLS to whoever comes and plainly to a server of this machine, as one stands before a service.

python tls_relay.py HOST PORT CERTIFICATE KEY SERVER_PORT
"""

import socket
import socketserver
import ssl
import sys
import threading
from contextlib import suppress


class _Relayed(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", int(sys.argv[5]))) as beyond,
            context.wrap_socket(self.request, server_side=True) as near,
        ):
            threading.Thread(target=_copy, args=(near, beyond), daemon=True).start()
            _copy(beyond, near)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)


class _Relay(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True


if __name__ == "__main__":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    with _Relay((sys.argv[1], int(sys.argv[2])), _Relayed) as relay:
        print("listening", flush=True)
        relay.serve_forever()
