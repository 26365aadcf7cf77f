// What llhttp, the reader of Node, reads of HTTP/1.1, for tests that compare readers.
//
// Two listeners, whose ports are printed: one takes requests, the other the answer to a GET. Each connection sends its
// bytes and closes its half; what was read comes back, a line for each message.

import http from "node:http";
import net from "node:net";

const line = (...parts) => `@@${parts.join(" ")}@@\n`;

async function whole(message) {
    const pieces = [];
    for await (const piece of message) pieces.push(piece);
    return Buffer.concat(pieces).toString("hex");
}

const requests = http.createServer({ keepAliveTimeout: 1000, requireHostHeader: true }, async (request, response) => {
    try {
        const body = await whole(request);
        response.end(line(request.method, request.url, body));
    } catch {
        request.socket.destroy();
    }
});

const waiting = [];
const backend = net.createServer((connection) => {
    connection.on("error", () => {});
    connection.once("data", () => connection.end(waiting.shift()));
});

function read(data) {
    waiting.push(data);
    return new Promise((resolve) => {
        const request = http.request({ port: backend.address().port, host: "127.0.0.1", agent: false });
        request.on("error", () => resolve(""));
        request.on("response", async (response) => {
            try {
                const body = await whole(response);
                resolve(response.complete ? line(response.statusCode, body) : "");
            } catch {
                resolve("");
            }
        });
        request.on("upgrade", () => resolve(""));
        request.end();
    });
}

const responses = net.createServer({ allowHalfOpen: true }, (connection) => {
    const pieces = [];
    connection.on("data", (piece) => pieces.push(piece));
    connection.on("error", () => {});
    connection.on("end", async () => connection.end(await read(Buffer.concat(pieces))));
});

const listen = (server) => new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
await Promise.all([backend, requests, responses].map(listen));
console.log(requests.address().port, responses.address().port);
