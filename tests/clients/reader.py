"""What h11 reads of HTTP/1.1, for tests that compare readers.

Two listeners, whose ports are printed: one takes requests, the other the answer to a GET. Each connection sends its
bytes and closes its half; what was read comes back, a line for each message.
"""

import socket
import threading

import h11


def line(*parts):
    return b"@@" + b" ".join(parts) + b"@@\n"


def requests(data):
    lines = []
    try:
        read_requests(data, lines)
    except h11.RemoteProtocolError:
        pass
    return lines


def read_requests(data, lines):
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
    connection.receive_data(data)
    connection.receive_data(b"")
    head, body = None, b""
    while True:
        event = connection.next_event()
        if event in (h11.NEED_DATA, h11.PAUSED):
            return
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            lines.append(line(head.method, head.target, body.hex().encode()))
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
        else:
            return


def response(data):
    try:
        return read_response(data)
    except h11.RemoteProtocolError:
        return []


def read_response(data):
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    status, body = b"", b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            status = str(event.status_code).encode()
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return [line(status, body.hex().encode())]
        elif not isinstance(event, h11.InformationalResponse):
            return []


def serve(read):
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def answer(connection):
        data = b""
        while more := connection.recv(65536):
            data += more
        connection.sendall(b"".join(read(data)))
        connection.close()

    def run():
        while True:
            answer(listener.accept()[0])

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


print(serve(requests), serve(response), flush=True)
threading.Event().wait()
